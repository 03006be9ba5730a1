//! The command line: what can be asked for, and how it is explained.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use clap::builder::{OsStringValueParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use mapped_ram::Bridge;

use crate::size;

const EXIT_CODES: &str = "Exit codes:
  0    all went well
  1    the content differs (verify --against, compare), or has stale bytes (prepare)
  2    the command line asks for something that cannot be
  3    the file is damaged, incomplete, or of a kind that is not read
  4    the system refused to read or write
  130  interrupted; no new file is left half-written, and one written in place is named or called incomplete

Sizes and offsets take k, M, G and T behind the number (powers of 1024), or hex (0x1000).";

/// Saves and inspects guests' memory in the file format of QEMU's mapped-ram migration capability.
#[derive(Debug, Parser)]
#[command(name = "mapped-ram", version, after_help = EXIT_CODES, propagate_version = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Save RAM files, or a made-up guest, into a file that QEMU loads
    ///
    /// The file appears under its name when it is whole and synced; until then an older one stays there. QEMU loads it
    /// with `-machine none,memory-backend=NAME` (or the machine given here), the capability mapped-ram, and
    /// `migrate-incoming file:OUT`.
    #[command(after_help = EXIT_CODES)]
    Save(SaveArgs),
    /// Show what a file holds: machine, blocks, pages, devices
    #[command(after_help = EXIT_CODES)]
    Info(InfoArgs),
    /// Check that a file is whole: structure, completeness, content
    ///
    /// Reads every page. Pages that are marked present but stand in holes of the file count as lost: a full disk leaves
    /// such files when QEMU writes them.
    #[command(after_help = EXIT_CODES)]
    Verify(VerifyArgs),
    /// Write the memory of one block, or of all, to sparse raw images
    #[command(after_help = EXIT_CODES)]
    Extract(ExtractArgs),
    /// Fill the files that are a guest's RAM: QEMU's memory-backend-file with share=on, a memfd under /proc
    ///
    /// A file that is not there is made, as long as its block. One that is there must be exactly as long; what it holds is given
    /// up. When the restore has failed the files made here are removed, and the others are named: no guest may use them. Where only
    /// the summary could not be printed, which is exit code 4 too, all files are whole and stay.
    #[command(after_help = EXIT_CODES)]
    Restore(RestoreArgs),
    /// Fill a guest's memory as it touches it, in the guest's own process, over a Unix socket
    ///
    /// Firecracker (`mem_backend` of type Uffd) connects to the socket, and so does whoever sends the same message: a JSON array of
    /// regions and a userfaultfd. The socket has mode 0600; what has its name already is left alone, unless it is a socket that nobody
    /// listens at. Serves one guest and ends when all its memory is there, or it is gone; with --keep any number. Ended early, it
    /// leaves guests waiting for their missing pages, and serving them again goes on.
    #[command(after_help = EXIT_CODES)]
    Serve(ServeArgs),
    /// Write a file anew: without zero pages and stale bytes, device state and all
    ///
    /// The copy of a libvirt image is one too, which `virsh restore` takes: the header with the domain's XML comes along, unless
    /// --stream-only or --offset is given. Other bytes before the stream do not.
    #[command(after_help = EXIT_CODES)]
    Copy(CopyArgs),
    /// Compare the memory and the device state of two files
    #[command(after_help = EXIT_CODES)]
    Compare(CompareArgs),
    /// Look whether a file can be mapped as it is, and note that on it: then mapping it takes no time
    ///
    /// A page that is zero may have other bytes in its room: a live save leaves them. Whoever maps the file has to look for them, in
    /// each run of pages, unless a note on the file (an extended attribute) says that there are none. What mapped-ram saves or copies
    /// has the note already; it is lost by a copy without attributes (`cp` without -a), and as soon as anybody writes the file. With
    /// stale bytes there is no note, and the exit code is 1: `copy` writes the file anew.
    #[command(after_help = EXIT_CODES)]
    Prepare(ReadArgs),
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("guest").required(true)))]
pub(crate) struct SaveArgs {
    /// A RAM block: its name in the stream, and the file that holds its memory. The name ends at the first `=`
    ///
    /// The file (QEMU's memory-backend-file with share=on, a memfd under /proc, a raw image) is mapped, and its length must be a multiple
    /// of the page size. Without share=on, which is off by default, QEMU keeps the guest's memory in private copies: the file holds
    /// zeros, or what it held before, and so would the save; a note says so where that can be seen. A guest may go on writing the
    /// file: then the pages are of different moments, and one that was zero just before may be zeros to who loads the file and not to
    /// who maps it. Give the option once for each block.
    #[arg(long, value_name = "NAME=FILE", value_parser = named_file(), group = "guest")]
    pub(crate) ram: Vec<NamedFile>,
    /// Make up a guest of this size instead, with one block `ram0`: partly dense, partly sparse, partly zero
    #[arg(long, value_name = "SIZE", value_parser = size::parse, group = "guest")]
    pub(crate) synthetic: Option<u64>,
    /// The made-up guest is the same for the same seed
    #[arg(long, value_name = "N", default_value_t = 1, requires = "synthetic")]
    pub(crate) seed: u64,
    /// The machine type in the stream
    #[arg(long, value_name = "NAME", default_value = "none")]
    pub(crate) machine: String,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
    /// The target's page size, a power of two
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "4096")]
    pub(crate) page_size: u64,
    /// The file to write
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct WriteArgs {
    /// How many threads write, 1 to 255 [default: the number of cores, 2 to 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) channels: Option<u8>,
    /// Through the page cache, past it (O_DIRECT), or through it leaving nothing there; auto goes by --sync
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Mode::Auto)]
    pub(crate) mode: Mode,
    /// The same as --mode direct
    #[arg(long, conflicts_with = "mode")]
    pub(crate) direct_io: bool,
    /// What must be on stable storage at the end: nothing, the bytes, or the bytes and the name
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = Sync::Full)]
    pub(crate) sync: Sync,
    /// Write gaps of at most N zero pages too, so that writes are larger: `none`, `auto` (gaps of 64 KiB) or a number
    ///
    /// It changes how much room the file takes, and nothing that a reader sees [default: auto; none for copy]
    #[arg(long, value_name = "N", value_parser = bridge)]
    pub(crate) bridge: Option<Bridge>,
    /// How much one write has at most: a multiple of the page size [default: 4M past the page cache, 1M through it]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub(crate) chunk: Option<u64>,
    /// How many bytes of pages to write a second, by all threads together; 0 is no limit
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "0")]
    pub(crate) max_bandwidth: u64,
    /// Write over this file, which nobody needs any more, instead of into new room: faster. Its content is LOST
    ///
    /// Its name goes first, so that nobody reads it half-written; OUT appears when it is whole. It must be on OUT's file
    /// system, and may be OUT itself. Its mode becomes 0600, but whoever has it open already sees the new guest in it. OUT keeps the room
    /// that the old file had, for the next that takes it over, also where its pages are zero; --bridge none, which `copy` takes unless
    /// it is told otherwise, gives that back, which takes longer
    #[arg(long, value_name = "FILE", conflicts_with = "offset")]
    pub(crate) recycle: Option<PathBuf>,
    /// How to sum up what was done
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Stats::Text)]
    pub(crate) stats: Stats,
    /// Say too what was picked, and what the system does not have
    #[arg(long, short)]
    pub(crate) verbose: bool,
    /// Whether zero pages are looked for and left out
    #[arg(long, value_name = "WHETHER", value_enum, default_value_t = ZeroDetection::On)]
    pub(crate) zero_detection: ZeroDetection,
    /// Write the stream from this byte of an existing or new file on, in place: what stands before is kept
    ///
    /// What stood behind is given up at once, and until the stream is whole every reader calls it incomplete. 0 is the same
    /// as no offset: a new file that appears when it is whole.
    #[arg(long, value_name = "OFFSET", value_parser = size::parse)]
    pub(crate) offset: Option<u64>,
}

impl WriteArgs {
    /// Where in an existing file the stream begins; nothing for a new file of its own.
    pub(crate) fn in_place(&self) -> Option<u64> {
        self.offset.filter(|offset| *offset != 0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ZeroDetection {
    /// Write every page
    None,
    /// Leave zero pages out
    On,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// What suits --sync: uring or mixed for a durable save, else buffered
    Auto,
    /// Through the page cache
    Buffered,
    /// Past the page cache where the file system can
    Direct,
    /// Through the page cache, leaving nothing there, where the kernel can (Linux 6.14)
    Uncached,
    /// Long runs of pages direct, scattered ones uncached
    Mixed,
    /// As mixed, with many writes in flight, where the kernel can (io_uring)
    Uring,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LoadMode {
    /// Through the page cache if most of the file is there, else past it, which leaves nothing there
    Auto,
    /// Through the page cache: for a file that is restored again and again
    Buffered,
    /// Past the page cache where the file system can
    Direct,
    /// Past it with many reads in flight, where the kernel can (io_uring)
    Uring,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sync {
    /// A power cut may take it all
    None,
    /// The file's bytes
    Data,
    /// The file's bytes and its name
    Full,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stats {
    /// Lines for people
    Text,
    /// One JSON object for programs
    Json,
}

/// `none`, `auto`, or a number of pages.
fn bridge(text: &str) -> Result<Bridge, String> {
    match text {
        "auto" => Ok(Bridge::Auto),
        "none" => Ok(Bridge::None),
        number => number.parse().map(Bridge::Pages).map_err(|_| {
            format!("`{number}` is no gap: use `auto`, `none` or a number of pages, such as 16")
        }),
    }
}

#[derive(Args, Debug)]
pub(crate) struct ReadArgs {
    /// The stream begins at this byte of the file [default: 0, or where a libvirt header says]
    #[arg(long, value_name = "OFFSET", value_parser = size::parse)]
    pub(crate) offset: Option<u64>,
    /// The file to read: saved by QEMU, libvirt (`--image-format sparse`) or mapped-ram
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct InfoArgs {
    /// Print JSON for programs
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    /// Compare the block NAME with a raw memory file too. The name ends at the first `=`
    #[arg(long, value_name = "NAME=FILE", value_parser = named_file())]
    pub(crate) against: Vec<NamedFile>,
    /// Take present pages in holes of the file for pages of zeros: for files that were made sparse later
    #[arg(long)]
    pub(crate) allow_holes: bool,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

#[derive(Args, Debug)]
#[command(group(clap::ArgGroup::new("which").required(true)))]
pub(crate) struct ExtractArgs {
    /// The block to write
    #[arg(long, value_name = "NAME", group = "which")]
    pub(crate) block: Option<OsString>,
    /// Write every block, each to a file of its own: its name with odd characters as %XX, and .raw
    ///
    /// No name leaves the folder: `/rom@etc/acpi/tables` becomes `%2From@etc%2Facpi%2Ftables.raw`. A symbolic link that
    /// stands under such a name is refused. Blocks that the file names but does not hold (x-ignore-shared) are passed over.
    #[arg(long, group = "which")]
    pub(crate) all: bool,
    /// The raw image to write, or with --all the folder
    #[arg(long, short, value_name = "PATH")]
    pub(crate) output: PathBuf,
    /// Write what can be had of a file that is cut, or cannot be read in places
    ///
    /// A page that is lost is zeros in the image, and stands on stdout: one line `NAME <tab> lost <tab> OFFSET <tab> LENGTH` (bytes of the
    /// block, in decimal) for each run of them. Lost are present pages that cannot be read, that stand behind the file's end, or in holes
    /// of it, as rescue tools leave where the disk gave nothing. Blocks without a readable bitmap, and those whose records are gone, have
    /// no image. The exit code is 3 unless the file is whole and nothing is lost.
    #[arg(long)]
    pub(crate) salvage: bool,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

#[derive(Args, Debug)]
pub(crate) struct RestoreArgs {
    /// The block to restore; once for each file
    #[arg(long, value_name = "NAME", required = true)]
    pub(crate) block: Vec<OsString>,
    /// The file that is to hold it, shared with whoever uses it; the first for the first block, and so on
    #[arg(long, value_name = "PATH", required = true)]
    pub(crate) into: Vec<PathBuf>,
    /// How many threads read, 1 to 255 [default: the number of cores, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) channels: Option<u8>,
    /// Through the page cache or past it (O_DIRECT)
    #[arg(long, value_name = "MODE", value_enum, default_value_t = LoadMode::Auto)]
    pub(crate) mode: LoadMode,
    /// The same as --mode uring: past the page cache in any case
    #[arg(long, conflicts_with = "mode")]
    pub(crate) direct_io: bool,
    /// How to sum up what was done
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Stats::Text)]
    pub(crate) stats: Stats,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    /// The socket that guests connect to; it is made here and removed at the end
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,
    /// The block that regions' offsets count in [default: all blocks, one behind the other]
    #[arg(long, value_name = "NAME")]
    pub(crate) block: Option<OsString>,
    /// How many threads fill in the background, 1 to 255 [default: the number of cores, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..))]
    pub(crate) channels: Option<u8>,
    /// What to fill beside what is touched
    #[arg(long, value_name = "WHAT", value_enum, default_value_t = FillArg::All)]
    pub(crate) fill: FillArg,
    /// The same as --fill none
    #[arg(long, conflicts_with = "fill")]
    pub(crate) no_background: bool,
    /// Read past the page cache (O_DIRECT) in the background, where the file system can
    #[arg(long)]
    pub(crate) direct_io: bool,
    /// Write down here which pages were asked for, in order; with --fill none that is all that the guest used
    #[arg(long, value_name = "FILE", conflicts_with = "keep")]
    pub(crate) record: Option<PathBuf>,
    /// Fill these pages first, in the order of an earlier --record
    #[arg(long, value_name = "FILE")]
    pub(crate) prefetch: Option<PathBuf>,
    /// Serve any number of guests, also at the same time, until interrupted
    #[arg(long)]
    pub(crate) keep: bool,
    /// How to sum up what was done
    #[arg(long, value_name = "FORM", value_enum, default_value_t = Stats::Text)]
    pub(crate) stats: Stats,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FillArg {
    /// Nothing: memory holds what the guest touched
    None,
    /// The rest, from the start on
    All,
}

#[derive(Args, Debug)]
pub(crate) struct CopyArgs {
    /// The stream begins at this byte of IN [default: 0, or where a libvirt header says]
    #[arg(long, value_name = "OFFSET", value_parser = size::parse)]
    pub(crate) in_offset: Option<u64>,
    /// Copy IN even if pages stand in it and not a single one is marked present; the copy is without them
    ///
    /// QEMU's background-snapshot writes such files. To whoever loads one its memory is zeros, but the pages are in it still
    #[arg(long)]
    pub(crate) discard_unmarked: bool,
    /// Leave out the header of a libvirt image: such a copy QEMU loads, and `virsh restore` does not take it
    #[arg(long)]
    pub(crate) stream_only: bool,
    #[command(flatten)]
    pub(crate) write: WriteArgs,
    /// The file to read
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// The file to write
    #[arg(value_name = "OUT")]
    pub(crate) out: PathBuf,
}

#[derive(Args, Debug)]
pub(crate) struct CompareArgs {
    /// One file
    #[arg(value_name = "A")]
    pub(crate) one: PathBuf,
    /// The other
    #[arg(value_name = "B")]
    pub(crate) two: PathBuf,
    /// The stream begins at this byte of A [default: 0, or where a libvirt header says]
    #[arg(long, value_name = "OFFSET", value_parser = size::parse)]
    pub(crate) offset_a: Option<u64>,
    /// The same for B
    #[arg(long, value_name = "OFFSET", value_parser = size::parse)]
    pub(crate) offset_b: Option<u64>,
}

/// A block's name, in the bytes of the stream, and a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedFile {
    pub(crate) name: Vec<u8>,
    pub(crate) path: PathBuf,
}

impl NamedFile {
    /// The name for people; bytes that are not UTF-8 are replaced.
    pub(crate) fn shown(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.name)
    }

    /// Cuts at the first `=`: file names may hold one, and QEMU's block names never do.
    fn parse(text: &OsStr) -> Result<Self, String> {
        let bytes = text.as_bytes();
        let cut = bytes.iter().position(|byte| *byte == b'=');
        match cut.map(|cut| (&bytes[..cut], &bytes[cut + 1..])) {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                Ok(Self { name: name.to_vec(), path: OsStr::from_bytes(path).into() })
            }
            _ => Err(format!("`{}` is no NAME=FILE, such as ram0=/dev/shm/guest-ram", text.display())),
        }
    }
}

/// Names and paths are bytes, not text.
fn named_file() -> impl TypedValueParser<Value = NamedFile> {
    OsStringValueParser::new().try_map(|text| NamedFile::parse(&text))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use clap::CommandFactory;
    use proptest::prelude::*;

    use super::{Cli, NamedFile};

    #[test]
    fn the_definitions_are_sound() {
        Cli::command().debug_assert();
    }

    proptest! {
        #[test]
        fn names_end_at_the_first_equals_sign_and_both_are_bytes(
            name in prop::collection::vec(any::<u8>().prop_filter("=", |byte| *byte != b'='), 1..40),
            path in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let text = [&name[..], b"=", &path].concat();
            let parsed = NamedFile::parse(OsStr::from_bytes(&text)).unwrap();
            prop_assert_eq!(parsed.name, name);
            prop_assert_eq!(parsed.path.as_os_str().as_bytes(), path);
        }
    }

    #[test]
    fn what_is_no_name_and_file() {
        for bad in ["", "=", "x", "=x", "x="] {
            assert!(NamedFile::parse(OsStr::new(bad)).is_err(), "{bad}");
        }
    }
}
