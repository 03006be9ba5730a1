//! What layouts and configurations say of themselves, and what is still allowed at a limit.

mod common;

use common::{decode_checked, file_with_tail, size};
use mapped_ram_format::bitmap::WordSize;
use mapped_ram_format::{BlockPlan, Configuration, LayoutPlan};

#[test]
fn a_layout_says_what_it_was_planned_with() {
    let plan = LayoutPlan::new().page_size(8192).machine("pc-q35-9.2");
    let plan = plan.block(BlockPlan::new("pc.ram", 1 << 20)).block(BlockPlan::new(b"rom\xff".to_vec(), 8192));
    let layout = plan.build().unwrap();
    assert_eq!(layout.configuration().unwrap().machine(), "pc-q35-9.2");
    assert_eq!(layout.page_size(), 8192);
    let said: Vec<_> = layout
        .blocks()
        .iter()
        .map(|block| (block.idstr().into_owned(), block.page_size(), block.pages()))
        .collect();
    assert_eq!(said, [("pc.ram".to_owned(), 8192, 128), ("rom\u{fffd}".to_owned(), 8192, 1)]);
}

#[test]
fn subsections_stand_in_one_order_whatever_the_order_they_were_given_in() {
    let new = || Configuration::new("none");
    let orders = [
        new().with_uuid([7; 16]).with_target_page_bits(13).with_capability("x-ignore-shared"),
        new().with_target_page_bits(13).with_capability("x-ignore-shared").with_uuid([7; 16]),
        new()
            .with_capability("x-ignore-shared")
            .with_uuid([1; 16])
            .with_target_page_bits(12)
            .with_uuid([7; 16]),
    ];
    let orders = orders.map(|configuration| configuration.with_target_page_bits(13));
    let names = |configuration: &Configuration| -> Vec<&str> {
        configuration.subsections().iter().map(mapped_ram_format::Subsection::name).collect()
    };
    for configuration in &orders {
        let in_order = ["configuration/target-page-bits", "configuration/capabilities", "configuration/uuid"];
        assert_eq!(names(configuration), in_order);
        assert_eq!((configuration.uuid(), configuration.target_page_bits()), (Some([7; 16]), Some(13)));
        assert_eq!(configuration.capabilities(), ["mapped-ram", "x-ignore-shared"]);
    }
    assert_eq!(names(&new()).len(), 1);
}

#[test]
fn a_machine_name_may_have_4096_bytes_and_no_more() {
    let plan = |length| LayoutPlan::new().machine("m".repeat(length)).block(BlockPlan::new("ram0", 1 << 20));
    let layout = plan(4096).build().unwrap();
    assert_eq!(decode_checked(&file_with_tail(&layout), 0).unwrap(), layout);
    assert!(plan(4097).build().unwrap_err().to_string().contains("4096"));
}

/// The items of a head are added up, not looked at one by one: a long one may follow a long one.
#[test]
fn a_head_may_be_long_as_long_as_its_items_together_are_within_the_limit() {
    let capability = |number: u8| format!("{number:03}{}", "x".repeat(252));
    let configuration = (0..255).fold(Configuration::new("m".repeat(4096)), |configuration, number| {
        configuration.with_capability(&capability(number))
    });
    let plan = LayoutPlan::new().configuration(configuration).block(BlockPlan::new("ram0", 1 << 20));
    let layout = plan.build().unwrap();
    assert_eq!(decode_checked(&file_with_tail(&layout), 0).unwrap(), layout);
}

/// Ten pages take 4 bytes of a bitmap with words of 32 bits, and 8 with words of 64.
#[test]
fn a_bitmap_that_only_short_words_fit_into_says_so() {
    let layout = LayoutPlan::new().block(BlockPlan::new("ram0", 10 * 4096)).build().unwrap();
    let block = &layout.blocks()[0];
    assert!(block.has_room_for(WordSize::W64) && block.has_room_for(WordSize::W32));
    let mut file = file_with_tail(&layout);
    let place = block.pages_offset() - 4;
    file[size(block.record_end() - 16)..][..8].copy_from_slice(&place.to_be_bytes());
    let decoded = mapped_ram_format::decode(&file, 0).unwrap();
    let block = &decoded.blocks()[0];
    assert_eq!(block.bitmap_offset(), place);
    assert!(block.has_room_for(WordSize::W32) && !block.has_room_for(WordSize::W64));
}
