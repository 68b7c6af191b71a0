//! The segments: every byte of them, front to back.
//!
//! Damage is stepped over where the frame's header still says how long it is, so that one bad frame
//! hides no other.

use std::path::PathBuf;

use bytes::Bytes;
use indelible_core::{Chain, Entry, TrailId, chain};

use super::files::Files;
use super::{Problem, Problems};
use crate::disk::{Dir, DiskError, File};
use crate::storage::frame::{self, FRAME_HEADER_SIZE, FrameHeader, Location};
use crate::storage::mend::swap;
use crate::storage::recovery::{self, Expected, Reader, SEGMENTS_DIR};
use crate::storage::segment::{self, SEGMENT_HEADER_SIZE, SegmentHeader, Summary};

/// Bytes that one read asks for at most.
const READ_BYTES_MAX: u64 = 1024 * 1024;
const ZEROS: [u8; 4096] = [0; 4096];
/// The file that is prepared to become the next segment.
const NEXT_FILE: &str = "next";

/// What there is.
#[derive(Debug)]
pub(super) struct Walked {
    /// Segment files.
    pub(super) segments: u64,
    /// One past the index of the last entry.
    pub(super) next: u64,
    /// The chain after it.
    pub(super) chain: Chain,
    /// A torn tail of the last segment, which the next start cuts off.
    pub(super) torn: Option<String>,
}

/// An entry in the segments.
pub(super) struct Found {
    pub(super) entry: Entry,
    pub(super) chain: Chain,
    pub(super) location: Location,
}

/// Where the walk is.
struct Walk<'a, 'b> {
    segments: &'a Dir,
    files: &'a Files,
    trail_id: TrailId,
    problems: &'b mut Problems,
    /// The entry that comes next.
    next: u64,
    /// The chain before it.
    chain: Chain,
    torn: Option<String>,
}

/// Reads all segments and gives every sound entry to `visit`, in order. Indexes have gaps where
/// there is damage.
pub(super) fn walk(
    data: &Dir,
    files: &Files,
    problems: &mut Problems,
    visit: &mut dyn FnMut(&mut Problems, Found),
) -> Result<Walked, DiskError> {
    let trail_id = files.trail_id().unwrap_or_default();
    let chain = chain::genesis(&trail_id);
    if !data.exists(SEGMENTS_DIR)? {
        if files.synced.next > 0 {
            let what = "no segments, and the synced marker speaks of entries";
            problems.push(Problem::new(data.path().join(SEGMENTS_DIR), what));
        }
        return Ok(Walked { segments: 0, next: 0, chain, torn: None });
    }
    let segments = Dir::open(&data.path().join(SEGMENTS_DIR), true)?;
    let mut walk =
        Walk { segments: &segments, files, trail_id, problems, next: 0, chain, torn: None };
    let names = segments.list()?;
    let firsts: Vec<u64> = names.iter().filter_map(|n| segment::parse_file_name(n)).collect();
    for name in names.iter().filter(|name| segment::parse_file_name(name).is_none()) {
        walk.check_other(name)?;
    }
    for (position, first) in firsts.iter().enumerate() {
        walk.segment(*first, firsts.get(position + 1).copied(), visit)?;
    }
    if walk.next < files.synced.next {
        let what =
            format!("the log ends before entry {}, which was durable", files.synced.next - 1);
        let lost = walk.next..=files.synced.next - 1;
        walk.problems.push(Problem::new(segments.path(), what).entries(lost));
    }
    Ok(Walked {
        segments: firsts.len() as u64,
        next: walk.next,
        chain: walk.chain,
        torn: walk.torn,
    })
}

impl Walk<'_, '_> {
    /// A file that is no segment: the one that is prepared, which is all zeros, or none of ours.
    fn check_other(&mut self, name: &str) -> Result<(), DiskError> {
        let path = self.segments.path().join(name);
        if swap::is_temporary(name) {
            return Ok(()); // what a mending that was cut short has left: the next start removes it
        }
        if name != NEXT_FILE {
            self.problems.push(Problem::new(path, "no such file belongs here"));
            return Ok(());
        }
        let file = self.segments.open_file_read_only(name)?;
        let mut reader = read(&file)?;
        self.expect_zeros(&mut reader, path, 0)
    }

    fn segment(
        &mut self,
        first: u64,
        successor: Option<u64>,
        visit: &mut dyn FnMut(&mut Problems, Found),
    ) -> Result<(), DiskError> {
        let name = segment::file_name(first);
        let path = self.segments.path().join(&name);
        let file = self.segments.open_file_read_only(&name)?;
        let mut reader = read(&file)?;
        if first != self.next {
            let missing = self.next.min(first)..=first.max(self.next).saturating_sub(1);
            self.problems
                .push(Problem::new(&path, "entries before it are missing").entries(missing));
            self.next = first;
        }
        let Some(header) = self.header(&mut reader, &path, first)? else {
            self.skip_to(successor);
            return Ok(());
        };
        let mut summary = Summary::new(first, header.chain_before);
        if header.chain_before != self.chain {
            let what = "the chain does not follow from the segment before";
            self.problems.push(Problem::new(&path, what).entries(first..=first));
        }
        while !segment::is_closed(summary.frames_end, header.segment_bytes) {
            match self.frame(&mut reader, &path, &mut summary, visit)? {
                Step::Frame => {}
                Step::End if successor.is_none() => {
                    self.tail(&mut reader, path, &summary)?;
                    self.finish(&summary);
                    return Ok(());
                }
                Step::End => {
                    let last =
                        successor.unwrap_or(self.files.synced.next).max(summary.next + 1) - 1;
                    let problem = Problem::new(path, "no frame where an entry belongs");
                    self.problems.push(problem.at(summary.frames_end).entries(summary.next..=last));
                    self.finish(&summary);
                    self.skip_to(successor);
                    return Ok(());
                }
            }
        }
        self.footer(&mut reader, path, &summary)?;
        self.finish(&summary);
        Ok(())
    }

    fn finish(&mut self, summary: &Summary) {
        self.next = summary.next;
        self.chain = summary.chain_after;
    }

    /// Goes on with the next segment, whose header says what the chain was.
    fn skip_to(&mut self, successor: Option<u64>) {
        let Some(successor) = successor else { return };
        self.next = successor;
        let file = self.segments.open_file_read_only(&segment::file_name(successor));
        let mut bytes = [0; SEGMENT_HEADER_SIZE];
        if file.is_ok_and(|file| file.read_exact_at(&mut bytes, 0).is_ok())
            && let Some(header) = SegmentHeader::decode(&bytes)
        {
            self.chain = header.chain_before;
        }
    }

    fn header(
        &mut self,
        reader: &mut Reader<'_>,
        path: &PathBuf,
        first: u64,
    ) -> Result<Option<SegmentHeader>, DiskError> {
        let what = match SegmentHeader::decode(reader.bytes(0, SEGMENT_HEADER_SIZE)?) {
            None => "the segment's header is damaged",
            Some(header) if header.first != first => "its name is that of another segment",
            Some(header) => match &self.files.identity {
                Some(id) if header.trail_id != id.trail_id => "it belongs to another trail",
                Some(id) if header.segment_bytes != id.segment_bytes => {
                    "it was written with another segment size"
                }
                _ => return Ok(Some(header)),
            },
        };
        self.problems.push(Problem::new(path, what).at(0).entries(first..=first));
        Ok(None)
    }

    /// One frame: adds it to the summary and gives its entry to `visit`, if it is sound.
    fn frame(
        &mut self,
        reader: &mut Reader<'_>,
        path: &PathBuf,
        summary: &mut Summary,
        visit: &mut dyn FnMut(&mut Problems, Found),
    ) -> Result<Step, DiskError> {
        let location = Location { segment: summary.first, offset: summary.frames_end };
        let bytes = reader.bytes(location.offset, FRAME_HEADER_SIZE)?;
        if bytes.iter().all(|byte| *byte == 0) {
            return Ok(Step::End);
        }
        let Ok(header) = FrameHeader::decode(bytes, location) else { return Ok(Step::End) };
        let index = header.id.index;
        if index != summary.next || location.offset + header.frame_size() > reader.length {
            return Ok(Step::End);
        }
        let bytes = reader.bytes(location.offset, header.frame_size() as usize)?;
        let mut problem = |what: String| {
            let problem = Problem::new(path, what).at(location.offset);
            self.problems.push(problem.entries(index..=index));
        };
        match frame::check(bytes, location) {
            Err(fault) => problem(fault.to_string()),
            Ok(_) => {
                let (entry, _) = frame::decode(&Bytes::copy_from_slice(bytes), location)
                    .expect("it was checked");
                let chain = chain::link_entry(&summary.chain_after, &entry);
                if chain != header.chain {
                    problem("the chain does not lead from the entry before to this one".into());
                }
                visit(self.problems, Found { entry, chain: header.chain, location });
            }
        }
        summary.push(header.id, header.chain, header.frame_size());
        Ok(Step::Frame)
    }

    /// What follows the frames of the last segment: zeros, or what a crash leaves.
    fn tail(
        &mut self,
        reader: &mut Reader<'_>,
        path: PathBuf,
        summary: &Summary,
    ) -> Result<(), DiskError> {
        if self.files.closed || summary.next < self.files.synced.next {
            return self.expect_zeros(reader, path, summary.frames_end);
        }
        // Above the marker of a node that crashed: recovery knows a tear when it sees one.
        let Some(identity) = &self.files.identity else { return Ok(()) };
        let expected = Expected {
            trail_id: self.trail_id,
            segment_bytes: identity.segment_bytes,
            first_index_any: false,
            read_all: false,
        };
        match recovery::find(self.segments, &expected, &self.files.synced, &mut |_| {}) {
            Ok(found) => {
                self.torn = found.tear.map(|tear| {
                    let Location { offset, .. } = tear.location;
                    format!("{}: a torn entry {} at offset {offset}", path.display(), tear.index)
                });
            }
            Err(error) => self.problems.push(Problem::new(path, error).at(summary.frames_end)),
        }
        Ok(())
    }

    /// What follows the frames of a closed segment: its footer if it is sealed, otherwise zeros, or
    /// what sealing had written before a crash.
    fn footer(
        &mut self,
        reader: &mut Reader<'_>,
        path: PathBuf,
        summary: &Summary,
    ) -> Result<(), DiskError> {
        let footer = summary.encode_footer();
        let (start, end) = (summary.frames_end, summary.frames_end + footer.len() as u64);
        let here = reader.bytes(start, footer.len())?;
        let whole = here == footer;
        let blank = here.iter().all(|byte| *byte == 0);
        let part = here.iter().zip(&footer).all(|(here, footer)| *here == 0 || here == footer);
        let sound = match reader.length <= end {
            true => whole,
            false => whole || blank || (part && !self.files.closed),
        };
        if !sound {
            let entries = summary.first..=summary.next.saturating_sub(1);
            let problem = Problem::new(&path, "the segment's footer is damaged");
            self.problems.push(problem.at(start).entries(entries));
        }
        self.expect_zeros(reader, path, end)
    }

    fn expect_zeros(
        &mut self,
        reader: &mut Reader<'_>,
        path: PathBuf,
        from: u64,
    ) -> Result<(), DiskError> {
        let mut offset = from;
        while offset < reader.length {
            let bytes = reader.bytes(offset, ZEROS.len())?;
            if bytes != &ZEROS[..bytes.len()] {
                self.problems
                    .push(Problem::new(path, "bytes after the end are not zero").at(offset));
                return Ok(());
            }
            offset += bytes.len() as u64;
        }
        Ok(())
    }
}

/// A reader that asks for no more than the file has: its buffer is filled with zeros first.
fn read(file: &File) -> Result<Reader<'_>, DiskError> {
    let reader = Reader::new(file)?;
    let bytes = reader.length.min(READ_BYTES_MAX) as usize;
    Ok(reader.reading(bytes))
}

/// What is at a place where a frame may be.
enum Step {
    /// A frame, sound or not.
    Frame,
    /// Nothing that is the next entry's frame.
    End,
}
