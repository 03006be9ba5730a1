//! Every committed seed, and every input that once broke something, under plain `cargo test`.

use std::fs;
use std::path::Path;

use fuzz_targets::TARGETS;

fn replay(folder: &str) -> usize {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(folder);
    let mut replayed = 0;
    for (name, target) in TARGETS.iter().copied() {
        let Ok(entries) = fs::read_dir(folder.join(name)) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            target(&fs::read(&path).unwrap());
            replayed += 1;
        }
    }
    replayed
}

#[test]
fn seeds() {
    assert!(replay("seeds") > 0);
}

#[test]
fn regressions() {
    replay("regressions");
}

/// A few thousand inputs of no particular kind, so that a target that is broken for all of them is noticed here.
#[test]
fn random_bytes() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for (name, target) in TARGETS.iter().copied() {
        for _ in 0..300 {
            let length = usize::try_from(next() % 600).unwrap();
            let data: Vec<u8> = (0..length).map(|_| next().to_le_bytes()[0]).collect();
            println!("{name}: {data:?}");
            target(&data);
        }
    }
}
