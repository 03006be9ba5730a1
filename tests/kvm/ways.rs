//! Saved while it runs, brought back by every way.

use std::fs::File;
use std::os::unix::fs::FileExt;

use mapped_ram::{Bridge, Reader, SaveOptions, SyncMode};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::guest::Guest;
use crate::machine::Machine;
use crate::memory::PAGE;
use crate::snapshot::{Way, save};
use crate::{dir, expect_same, kvm, new};

fn options() -> SaveOptions<'static> {
    SaveOptions::new().sync(SyncMode::None)
}

/// Everything that a machine is, but for its memory.
fn state(machine: &Machine) -> Vec<Vec<u8>> {
    machine.cpu.state().unwrap().into_iter().map(|device| device.data).collect()
}

#[derive(Clone, Debug)]
struct Case {
    guest: Guest,
    /// Pages that it does before it is saved.
    before: u64,
    rounds: u32,
    /// Pages that it does between two rounds, at least.
    between: u64,
    /// Pages that it does after it was brought back.
    after: u64,
    channels: usize,
    bridged: bool,
}

fn case() -> impl Strategy<Value = Case> {
    // A kernel may have to be emulated, which takes milliseconds a page: few of them, and small.
    let size = prop_oneof![
        1 => (6_u32..10, Just(true)),
        3 => (6_u32..70, Just(false)),
        3 => (200_u32..2000, Just(false)),
    ];
    let mask = prop::sample::select(vec![1, 3, 8, 64, u32::MAX]);
    (size, mask).prop_flat_map(|((pages, is_kernel), mask)| {
        let waves = |waves: u64| 0..u64::from(pages) * waves;
        (waves(3), 0_u32..4, waves(2), waves(2), 1_usize..4, any::<bool>()).prop_map(
            move |(before, rounds, between, after, channels, bridged)| {
                let guest = Guest { pages, mask, is_kernel };
                Case { guest, before, rounds, between: between / 2, after: after + 1, channels, bridged }
            },
        )
    })
}

/// Memory is the saved machine's, word for word, before anything runs. Then the guest runs in machines that nobody looked into
/// (which would bring pages in), and at the end memory and registers are those of the machine that was saved and ran on.
#[test]
fn every_way_goes_on_where_it_stood() {
    let Some(kvm) = kvm() else { return };
    // Each case makes some ten machines. The macro would take the number from PROPTEST_CASES whatever its configuration says.
    let mut config = Config::default();
    config.cases = (config.cases / 16).clamp(1, 32);
    config.source_file = Some(file!());
    let strategy = (case(), 0_usize..Way::ALL.len());
    let checked = TestRunner::new(config).run(&strategy, |(case, next)| {
        let dir = dir();
        let path = dir.path().join("guest");
        let Case { guest, before, rounds, between, after, channels, bridged } = case;
        let options =
            move || options().channels(channels).bridge(if bridged { Bridge::Auto } else { Bridge::None });
        let mut machine = new(&kvm, guest);
        machine.run(before).unwrap();
        let (mut machine, report) = save(machine, options(), &path, rounds, between).unwrap();
        report.unwrap();
        machine.check().unwrap();
        let (stood, registers) = (machine.board.ram.words(), state(&machine));
        machine.run(after).unwrap();
        machine.check().unwrap();
        let (went, went_registers) = (machine.board.ram.words(), state(&machine));
        drop(machine);

        for way in Way::ALL {
            let restored = way.restore(&kvm, &path).unwrap();
            expect_same(&restored.board.ram.words(), &stood, &format!("{way:?}, before it runs"));
            prop_assert_eq!(&state(&restored), &registers);

            let mut restored = way.restore(&kvm, &path).unwrap();
            restored.run(after).unwrap();
            expect_same(&restored.board.ram.words(), &went, &format!("{way:?}, after it ran"));
            prop_assert_eq!(&state(&restored), &went_registers);

            // A guest that was brought back is one that can be saved: also while it is still being filled on demand, and out of a
            // mapping of the very file.
            let again = dir.path().join("again");
            let restored = way.restore(&kvm, &path).unwrap();
            let (second, report) = save(restored, options(), &again, rounds, between).unwrap();
            report.unwrap();
            second.check().unwrap();
            let (stood, what) = (second.board.ram.words(), format!("{way:?}, then {:?}", Way::ALL[next]));
            drop(second);
            let mut third = Way::ALL[next].restore(&kvm, &again).unwrap();
            if after % 2 == 0 {
                expect_same(&third.board.ram.words(), &stood, &what);
            }
            third.run(after).unwrap();
            third.check().unwrap();
        }
        Ok(())
    });
    if let Err(failure) = checked {
        panic!("{failure}");
    }
}

/// Every page is set in one wave and zero in the next: the first round of a save writes what the last one finds zero. It leaves nothing
/// of that in the file; and where somebody's save does, as QEMU's, nobody is shown it.
#[test]
fn what_was_set_in_an_earlier_round_is_shown_by_no_way() {
    let Some(kvm) = kvm() else { return };
    let dir = dir();
    let path = dir.path().join("guest");
    let guest = Guest { pages: 1001, mask: 1, is_kernel: false };
    let mut machine = new(&kvm, guest);
    machine.run(1000).unwrap();
    // At least a wave behind the first round.
    let (machine, report) = save(machine, options().bridge(Bridge::None), &path, 2, 1000).unwrap();
    report.unwrap();
    machine.check().unwrap();

    let reader = Reader::open(&path).unwrap();
    let block = reader.block("ram0").unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    let mut room = [0; PAGE];
    let absent = || (0..block.pages()).filter(|page| !block.bitmap().unwrap().contains(*page));
    let offset = |page| block.layout().pages_offset() + page * PAGE as u64;
    for page in absent() {
        file.read_exact_at(&mut room, offset(page)).unwrap();
        assert_eq!(room, [0; PAGE], "page {page} is stale");
    }
    assert!(absent().count() >= 300, "{} pages are absent: nothing is tested", absent().count());
    for page in absent().step_by(2) {
        file.write_all_at(&[0xBD; PAGE], offset(page)).unwrap();
    }

    for way in Way::ALL {
        let mut restored = way.restore(&kvm, &path).unwrap();
        expect_same(&restored.board.ram.words(), &machine.board.ram.words(), &format!("{way:?}"));
        drop(restored);
        // The guest looks at all of it itself, none of which was looked at before.
        restored = way.restore(&kvm, &path).unwrap();
        restored.run(2000).unwrap();
        restored.check().unwrap();
    }
}

/// The check is one: a word that is wrong is noticed by the monitor, and by the guest when it comes to it.
#[test]
fn a_wrong_word_is_noticed() {
    let Some(kvm) = kvm() else { return };
    for page in [4, 150, 299] {
        let mut machine = new(&kvm, Guest { pages: 300, mask: 3, is_kernel: false });
        machine.run(296 * 2).unwrap();
        machine.check().unwrap();
        let at = page * PAGE + 4092;
        let ram = &machine.board.ram;
        let word = ram.words()[at / 4];
        ram.write(at, word.to_le_bytes()[0] ^ 1);
        assert!(machine.check().unwrap_err().to_string().contains(&format!("word 1023 of page {page} ")));
        let failure = machine.run(296).unwrap_err();
        assert!(
            matches!(failure, crate::machine::Failure::BadPage(address) if address as usize == page * PAGE),
            "{failure}"
        );
    }
}
