//! Plans: what is planned decodes to the same, and no two ranges touch.

mod common;

use common::{cases, decode_checked, describes, file_with_tail};
use mapped_ram_format::bitmap::WordSize;
use mapped_ram_format::{BlockLayout, BlockPlan, Configuration, IGNORE_SHARED, LayoutPlan, PlanError};
use proptest::prelude::*;

proptest! {
    #[test]
    fn planned_equals_decoded(case in cases()) {
        let layout = case.plan.build().unwrap();
        let file = file_with_tail(&layout);
        let decoded = decode_checked(&file, case.stream_offset).unwrap();
        prop_assert_eq!(&decoded, &layout);
        prop_assert!(describes(&decoded, &file));
        for block in layout.blocks() {
            prop_assert_eq!(layout.block(block.idstr_bytes()), Some(block));
        }
        prop_assert_eq!(layout.block("no such block"), None);
    }

    #[test]
    fn ranges_follow_one_another(case in cases()) {
        let layout = case.plan.build().unwrap();
        let mut cursor = layout.stream_offset();
        let mut next = |start: u64, end: u64| {
            assert!(cursor <= start && start <= end, "{cursor} {start} {end}");
            cursor = end;
        };
        next(layout.stream_offset(), layout.records_offset());
        for block in layout.blocks() {
            next(block.record_offset(), block.record_end());
            if block.is_left_out() {
                prop_assert_eq!((block.bitmap_offset(), block.pages_offset()), (0, 0));
                prop_assert_eq!(block.bitmap_len(case.word), 0);
                prop_assert_eq!(block.end(), block.record_end());
                continue;
            }
            prop_assert_eq!(block.bitmap_offset(), block.record_end());
            prop_assert_eq!(block.pages_offset() % case.alignment, 0);
            prop_assert!(block.has_room_for(case.word));
            prop_assert!(block.pages_offset() - block.bitmap_offset() < block.bitmap_len(case.word) + case.alignment);
            next(block.bitmap_offset(), block.bitmap_offset() + block.bitmap_len(case.word));
            next(block.pages_offset(), block.pages_offset() + block.pages() * case.page_size);
            prop_assert_eq!(block.pages_offset() + block.used_length(), block.end());
        }
        next(layout.tail_offset(), layout.tail_offset());
        prop_assert_eq!(layout.tail_offset(), layout.blocks().last().map_or(layout.records_offset(), BlockLayout::end));
    }

    #[test]
    fn pieces_are_the_complement(case in cases()) {
        let layout = case.plan.build().unwrap();
        let pieces = layout.pieces();
        prop_assert_eq!(pieces[0].offset, layout.stream_offset());
        prop_assert!(pieces[0].bytes.starts_with(b"QEVM"));
        for pair in pieces.windows(2) {
            prop_assert!(pair[0].offset + (pair[0].bytes.len() as u64) < pair[1].offset);
        }
        let length: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        let records: u64 = layout.blocks().iter().map(|block| block.record_end() - block.record_offset()).sum();
        prop_assert_eq!(length as u64, layout.records_offset() - layout.stream_offset() + records);
    }

    #[test]
    fn a_copied_head_is_the_same_bytes(case in cases(), pages in 1u64..9, id in any::<u32>()) {
        let layout = case.plan.build().unwrap();
        let block = BlockPlan::new("other", pages * layout.page_size());
        let shared = layout.configuration().is_some_and(|with| with.has_capability(IGNORE_SHARED));
        let block = if shared { block.guest_address(0) } else { block };
        let plan = LayoutPlan::new().head_of(&layout).page_size(layout.page_size()).block(block);
        let copy = plan.clone().build().unwrap();
        let head = usize::try_from(layout.records_offset() - layout.stream_offset()).unwrap() - 8;
        prop_assert_eq!(&copy.pieces()[0].bytes[..head], &layout.pieces()[0].bytes[..head]);
        prop_assert_eq!(copy.ram_section_id(), layout.ram_section_id());

        let renumbered = plan.ram_section_id(id).build().unwrap();
        prop_assert_eq!(decode_checked(&file_with_tail(&renumbered), 0).unwrap(), renumbered.clone());
        prop_assert_eq!(renumbered.ram_section_id(), id);
    }

    #[test]
    fn any_numbers_plan_or_fail(
        offset in any::<u64>(), page in any::<u64>(), align in any::<u64>(), length in any::<u64>(),
        shift in 0u32..64, w32 in any::<bool>(),
    ) {
        let word = if w32 { WordSize::W32 } else { WordSize::W64 };
        for (page, align) in [(page, align), (1 << shift, align), (1 << shift, 1 << 63), (1 << shift, 1 << shift)] {
            let length = length.checked_next_multiple_of(page.max(1)).unwrap_or(length);
            let blocks = ["a", "b"].map(|name| BlockPlan::new(name, length));
            let plan = LayoutPlan::new().stream_offset(offset).page_size(page).alignment(align).word(word);
            if let Ok(layout) = plan.blocks(blocks).build() {
                prop_assert!(i64::try_from(layout.tail_offset()).is_ok());
            }
        }
    }
}

#[test]
fn defaults_are_those_of_files_written_today() {
    let layout = LayoutPlan::new().block(BlockPlan::new("ram0", 4096)).build().unwrap();
    assert_eq!(layout.page_size(), 4096);
    assert_eq!(layout.blocks()[0].pages_offset(), 1 << 20);
    assert_eq!(layout.configuration(), Some(&Configuration::new("none")));

    let huge = LayoutPlan::new().page_size(2 << 20).block(BlockPlan::new("ram0", 2 << 20)).build().unwrap();
    assert_eq!(huge.blocks()[0].pages_offset(), 2 << 20);
}

#[test]
fn a_left_out_block_brings_the_capability_for_a_machine_only() {
    let block = || BlockPlan::new("shm", 4096).guest_address(7).left_out();
    let layout = LayoutPlan::new().machine("pc").block(block()).build().unwrap();
    assert!(layout.configuration().unwrap().has_capability(IGNORE_SHARED));
    assert_eq!(layout.blocks()[0].guest_address(), Some(7));
    assert_eq!(layout.tail_offset(), layout.blocks()[0].record_end());

    let without = PlanError::WithoutIgnoreShared("shm".into());
    let plan = LayoutPlan::new().configuration(Configuration::new("pc")).block(block());
    assert_eq!(plan.build(), Err(without.clone()));
    assert_eq!(LayoutPlan::new().no_configuration().block(block()).build(), Err(without.clone()));

    // An address alone brings it too; left out without one there is no saying where the memory belongs.
    let addressed = BlockPlan::new("shm", 4096).guest_address(7);
    let layout = LayoutPlan::new().machine("pc").block(addressed).build().unwrap();
    assert!(layout.configuration().unwrap().has_capability(IGNORE_SHARED));
    let nowhere = || BlockPlan::new("shm", 4096).left_out();
    let missing = PlanError::MissingGuestAddress("shm".into());
    assert_eq!(LayoutPlan::new().machine("pc").block(nowhere()).build(), Err(missing));
    assert_eq!(LayoutPlan::new().no_configuration().block(nowhere()).build(), Err(without));
}

#[test]
fn plans_that_no_decoder_would_take() {
    let plan = LayoutPlan::new;
    let block = |name: &str, length| BlockPlan::new(name, length);
    let refused = |plan: LayoutPlan| plan.build().unwrap_err();
    assert_eq!(refused(plan().page_size(0)), PlanError::PageSize(0));
    assert_eq!(refused(plan().page_size(1)), PlanError::PageSize(1));
    assert_eq!(refused(plan().page_size(4097)), PlanError::PageSize(4097));
    assert_eq!(refused(plan().alignment(2048)), PlanError::Alignment(2048));
    assert_eq!(refused(plan().alignment(0)), PlanError::Alignment(0));
    assert_eq!(refused(plan().block(block("", 4096))), PlanError::Name("".into()));
    assert_eq!(refused(plan().block(block("a\0b", 4096))), PlanError::Name("a\\u{0}b".into()));
    assert_eq!(refused(plan().block(block(&"a".repeat(256), 4096))), PlanError::Name("a".repeat(256).into()));
    let length = |length| PlanError::UsedLength { block: "a".into(), length, page_size: 4096 };
    assert_eq!(refused(plan().block(block("a", 0))), length(0));
    assert_eq!(refused(plan().block(block("a", 4095))), length(4095));
    let twice = plan().block(block("a", 4096)).block(block("b", 4096)).block(block("a", 8192));
    assert_eq!(refused(twice), PlanError::DuplicateBlock("a".into()));
    assert_eq!(refused(plan().block(block("a", 1 << 63))), PlanError::TooLong);
    assert_eq!(refused(plan().stream_offset(u64::MAX)), PlanError::TooLong);
    let shared = Configuration::new("pc").with_capability(IGNORE_SHARED);
    assert_eq!(
        refused(plan().configuration(shared).block(block("a", 4096))),
        PlanError::MissingGuestAddress("a".into())
    );
    assert_eq!(
        refused(plan().configuration(Configuration::new("pc").with_target_page_bits(13))),
        PlanError::PageSizeContradiction { bits: 13, page_size: 4096 }
    );
    for bad in [
        Configuration::new("a\0b"),
        Configuration::new("a".repeat(4097)),
        Configuration::new("pc").with_capability(""),
        Configuration::new("pc").with_capability(&"a".repeat(256)),
        Configuration::new("pc").with_target_page_bits(7),
    ] {
        assert!(matches!(refused(plan().configuration(bad)), PlanError::Configuration(_)));
    }
}

proptest! {
    #[test]
    fn a_configuration_tells_the_machine_that_it_was_made_for(machine in "[a-z0-9.-]{0,40}") {
        let configuration = Configuration::new(machine.as_str());
        prop_assert_eq!(configuration.machine(), machine);
    }
}
