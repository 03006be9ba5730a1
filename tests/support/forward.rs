//! A `Source` over a file: what a test does not change is passed on.

/// Inside of an `impl Source`: these methods are those of the `FileSource` in the field.
///
/// Only what is named is passed on. What is neither named nor written out is as the trait has it: a source that does not name
/// `file` has none to map, one without `next_data` knows of no holes.
macro_rules! forward {
    ($field:tt: $($method:ident),+) => {
        $(forward!(@ $method $field);)+
    };
    (@ name $field:tt) => {
        fn name(&self) -> String {
            self.$field.name()
        }
    };
    (@ len $field:tt) => {
        fn len(&self) -> std::io::Result<u64> {
            self.$field.len()
        }
    };
    (@ read_at $field:tt) => {
        fn read_at(&self, buffer: &mut [u8], offset: u64) -> std::io::Result<usize> {
            self.$field.read_at(buffer, offset)
        }
    };
    (@ channel $field:tt) => {
        fn channel(
            &self,
            index: usize,
            mode: mapped_ram::storage::IoMode,
        ) -> std::io::Result<Box<dyn multifd_pool::Channel>> {
            self.$field.channel(index, mode)
        }
    };
    (@ effective_mode $field:tt) => {
        fn effective_mode(&self, mode: mapped_ram::storage::IoMode) -> mapped_ram::storage::IoMode {
            self.$field.effective_mode(mode)
        }
    };
    (@ next_data $field:tt) => {
        fn next_data(&self, offset: u64, end: u64) -> std::io::Result<Option<(u64, u64)>> {
            self.$field.next_data(offset, end)
        }
    };
    (@ first_data $field:tt) => {
        fn first_data(&self, offset: u64, end: u64) -> std::io::Result<Option<u64>> {
            self.$field.first_data(offset, end)
        }
    };
    (@ file $field:tt) => {
        fn file(&self) -> Option<&std::fs::File> {
            Some(self.$field.file())
        }
    };
    (@ state $field:tt) => {
        fn state(&self) -> std::io::Result<Option<mapped_ram::storage::FileState>> {
            self.$field.state()
        }
    };
    (@ is_noted_clean $field:tt) => {
        fn is_noted_clean(&self, stream_offset: u64) -> bool {
            self.$field.is_noted_clean(stream_offset)
        }
    };
    (@ note_clean $field:tt) => {
        fn note_clean(&self, stream_offset: u64, state: &mapped_ram::storage::FileState) -> std::io::Result<()> {
            self.$field.note_clean(stream_offset, state)
        }
    };
}
