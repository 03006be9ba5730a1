//! One transfer against whatever a system call may do.

#[allow(unreachable_pub, reason = "shared by several tests")]
mod common;

use std::sync::Arc;

use common::{Act, MemoryFile};
use multifd_pool::{Cancel, IoVec, Operation, WorkError, read_exact_at, write_all_at};
use proptest::prelude::*;

const EINTR: i32 = 4;

fn memory() -> impl Strategy<Value = Vec<Vec<u8>>> {
    prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..8)
}

fn plans() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![3 => Just(Act::All), 6 => (1_usize..20).prop_map(Act::Short), 3 => Just(Act::Errno(EINTR))];
    prop::collection::vec(act, 0..60)
}

fn vecs(memory: &mut [Vec<u8>]) -> Vec<IoVec> {
    memory.iter_mut().map(|piece| IoVec::new(piece.as_mut_ptr(), piece.len())).collect()
}

fn name() -> Arc<str> {
    Arc::from("ram0")
}

proptest! {
    #[test]
    fn short_and_interrupted_calls_still_move_everything(mut pieces in memory(), plan in plans(), offset in 0_u64..50) {
        let flat = pieces.concat();
        let length = usize::try_from(offset).unwrap() + flat.len() + 10;
        let mut file = MemoryFile::planned(length, plan.clone());
        // SAFETY: `pieces` is not touched meanwhile.
        let calls = unsafe { write_all_at(&mut file, &name(), &vecs(&mut pieces), offset, &Cancel::new()) }.unwrap();
        let mut expected = vec![0; length];
        expected[usize::try_from(offset).unwrap()..][..flat.len()].copy_from_slice(&flat);
        prop_assert_eq!(file.content(), expected);
        prop_assert_eq!(calls, *file.calls.lock().unwrap());

        let mut back: Vec<Vec<u8>> = pieces.iter().map(|piece| vec![0xAA; piece.len()]).collect();
        file.plan.lock().unwrap().extend(plan);
        // SAFETY: `back` is not touched meanwhile.
        unsafe { read_exact_at(&mut file, &name(), &vecs(&mut back), offset, &Cancel::new()) }.unwrap();
        prop_assert_eq!(back, pieces);
    }

    #[test]
    fn an_error_says_where_it_stopped(
        mut pieces in memory(),
        before in 0_usize..100,
        bad in prop_oneof![Just(Act::Errno(28)), Just(Act::Errno(5)), Just(Act::Errno(11)), Just(Act::Nothing), Just(Act::TooMuch)],
        offset in 0_u64..50,
    ) {
        let length = pieces.concat().len() as u64;
        prop_assume!(length > 0);
        let before = before as u64 % length;
        let plan = if before == 0 { vec![bad] } else { vec![Act::Short(usize::try_from(before).unwrap()), bad] };
        let mut file = MemoryFile::planned(500, plan);
        // SAFETY: `pieces` is not touched meanwhile.
        let result = unsafe { write_all_at(&mut file, &name(), &vecs(&mut pieces), offset, &Cancel::new()) };
        let Err(WorkError::Transfer(error)) = result else { panic!("{result:?}") };
        prop_assert_eq!((error.operation, &*error.block), (Operation::Write, "ram0"));
        prop_assert_eq!((error.offset, error.length, error.done), (offset, length, before));
        let text = error.to_string();
        let place = format!("file offset {:#x}", offset + before);
        prop_assert!(text.starts_with("write of block `ram0`") && text.contains(&place), "{}", text);
    }
}

#[test]
fn the_end_of_the_file_is_an_error_when_reading() {
    let mut file = MemoryFile::new(10);
    let mut memory = vec![vec![0; 20]];
    // SAFETY: `memory` is not touched meanwhile.
    let result = unsafe { read_exact_at(&mut file, &name(), &vecs(&mut memory), 0, &Cancel::new()) };
    let Err(WorkError::Transfer(error)) = result else { panic!("{result:?}") };
    assert_eq!((error.done, error.source.kind()), (10, std::io::ErrorKind::UnexpectedEof));
    assert!(error.to_string().starts_with("read of block `ram0`"), "{error}");
}

#[test]
fn more_iovecs_than_the_system_takes_are_several_calls() {
    let mut memory: Vec<Vec<u8>> = (0..3000_u32).map(|i| vec![i.to_be_bytes()[3]]).collect();
    let mut file = MemoryFile::new(3000);
    // SAFETY: `memory` is not touched meanwhile.
    let calls = unsafe { write_all_at(&mut file, &name(), &vecs(&mut memory), 0, &Cancel::new()) }.unwrap();
    assert_eq!(calls, 3);
    assert_eq!(file.content(), memory.concat());
}

#[test]
fn offsets_that_wrap_are_refused_before_any_call() {
    let mut file = MemoryFile::new(10);
    let mut memory = vec![vec![0; 20]];
    // SAFETY: `memory` is not touched meanwhile.
    let result =
        unsafe { write_all_at(&mut file, &name(), &vecs(&mut memory), u64::MAX - 5, &Cancel::new()) };
    assert!(matches!(result, Err(WorkError::Transfer(_))));
    assert_eq!(*file.calls.lock().unwrap(), 0);
}

#[test]
fn a_used_cancel_handle_stops_before_the_next_call() {
    let cancel = Cancel::new();
    cancel.cancel();
    let mut file = MemoryFile::new(10);
    let mut memory = vec![vec![0; 5]];
    // SAFETY: `memory` is not touched meanwhile.
    let result = unsafe { write_all_at(&mut file, &name(), &vecs(&mut memory), 0, &cancel) };
    assert!(matches!(result, Err(WorkError::Cancelled)));
    assert_eq!(*file.calls.lock().unwrap(), 0);
}

/// Iovecs of no bytes never fill a call by themselves: it would move nothing, which is an error.
#[test]
fn more_empty_iovecs_than_a_call_takes_are_passed_over() {
    let bytes = [1_u8, 2];
    let (one, two) = (IoVec::from_const(bytes.as_ptr(), 1), IoVec::from_const(bytes[1..].as_ptr(), 1));
    let none = IoVec::from_const(bytes.as_ptr(), 0);
    assert!(none.is_empty() && !one.is_empty());
    let many = vec![none; 1024];
    let vecs = [&many[..], &[one], &many, &[two], &many].concat();
    let mut file = MemoryFile::new(2);
    let name: Arc<str> = Arc::from("ram0");
    // SAFETY: `bytes` is only read, and lives until the call returns.
    let calls = unsafe { write_all_at(&mut file, &name, &vecs, 0, &Cancel::new()) }.unwrap();
    assert_eq!((calls, file.content()), (2, vec![1, 2]));
}
