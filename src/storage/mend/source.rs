//! Entries out of segment files, for peers that mend theirs: whatever state the log is in, open,
//! closed or damaged.
//!
//! What is given out has its checksums; whether it belongs to the log, the asker checks. It may
//! even be newer than what is durable here, or of a leader that lost: the asker decides by the
//! rules of Raft what of the end of a log counts.

use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use indelible_core::{EntryId, TrailId};

use super::survey::{self, Files};
use super::{Common, Fetched, Own};
use crate::disk::{Dir, DiskError, File};
use crate::storage::recovery;
use crate::storage::segment::{self, FRAMES_START, SegmentInfo, Summary};
use crate::storage::synced::{SYNCED_FILE, Synced, SyncedFile};

/// The segments of a data directory, read-only.
#[derive(Debug)]
pub struct SegmentSource {
    data: Dir,
    common: Common,
    /// Where the last answer ended: whoever asks goes on there.
    cursor: Mutex<Option<Cursor>>,
}

/// A place in a segment.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    segment: u64,
    /// The entry whose frame belongs there.
    index: u64,
    offset: u64,
}

/// The end of a log that may be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEnd {
    /// The last whole entry; none if there is none.
    pub last: Option<EntryId>,
    /// Whether the log ends there. False: there may have been more, which is damaged; then this
    /// log says nothing about whether an entry ever existed.
    pub certain: bool,
}

impl SegmentSource {
    /// The segments of this data directory. Nothing is read yet.
    pub fn open(
        dir: &Path,
        trail_id: TrailId,
        segment_bytes: u64,
    ) -> Result<SegmentSource, DiskError> {
        let common = Common { trail_id, segment_bytes };
        Ok(SegmentSource { data: Dir::open(dir, true)?, common, cursor: Mutex::new(None) })
    }

    /// Whole entries of a range, in order, until their payloads have `bytes_max` bytes; at least
    /// one if there is one. Damaged ones are left out. None at all: there is nothing (more) in the
    /// range. Blocks.
    pub fn entries(&self, range: Range<u64>, bytes_max: usize) -> Result<Vec<Fetched>, DiskError> {
        let files = Files::list(&self.data, self.common)?;
        let mut found = Vec::new();
        let from = files.firsts.partition_point(|first| *first <= range.start).saturating_sub(1);
        let mut bytes_left = bytes_max;
        for first in &files.firsts[from.min(files.firsts.len())..] {
            if *first >= range.end || (bytes_left == 0 && !found.is_empty()) {
                break;
            }
            self.segment(&files, *first, &range, &mut bytes_left, &mut found)?;
        }
        Ok(found)
    }

    /// Entries of one segment.
    fn segment(
        &self,
        files: &Files,
        first: u64,
        range: &Range<u64>,
        bytes_left: &mut usize,
        found: &mut Vec<Fetched>,
    ) -> Result<(), DiskError> {
        let Some(file) = open(files, first)? else { return Ok(()) };
        let mut own = Own::new(first, Some(&file), &self.common)?;
        let mut at = self.start(&mut own, first, range.start)?;
        while at.index < range.end && (*bytes_left > 0 || found.is_empty()) {
            let frame = own.frame(at.offset)?.filter(|(header, _)| header.id.index == at.index);
            let Some((header, entry)) = frame else {
                let Some((index, offset)) = own.following(at.offset, at.index)? else { break };
                at = Cursor { index, offset, ..at };
                continue;
            };
            if at.index >= range.start {
                *bytes_left = bytes_left.saturating_sub(entry.payload_bytes());
                found.push(Fetched { entry, chain: header.chain });
            }
            at = Cursor { index: at.index + 1, offset: at.offset + header.frame_size(), ..at };
        }
        *self.cursor.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
        Ok(())
    }

    /// The nearest place before an entry that is known.
    fn start(&self, own: &mut Own<'_>, first: u64, index: u64) -> Result<Cursor, DiskError> {
        let cursor = *self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cursor) = cursor.filter(|c| c.segment == first && c.index <= index) {
            return Ok(cursor);
        }
        let (at, offset) = match own.footer() {
            Ok(Some(summary)) if index >= first => summary.sample_before(index),
            _ => (first, FRAMES_START),
        };
        Ok(Cursor { segment: first, index: at, offset })
    }

    /// The end of the log, judged as a start would. Reads the last segment.
    pub fn end(&self) -> Result<LogEnd, DiskError> {
        let files = Files::list(&self.data, self.common)?;
        let marker = match self.data.exists(SYNCED_FILE)? {
            true => SyncedFile::read(&self.data).ok(),
            false => files.firsts.is_empty().then_some(Synced::EMPTY),
        };
        let Some(first) = files.firsts.last().copied() else {
            let certain = marker.is_some_and(|marker| marker.next == 0);
            return Ok(LogEnd { last: None, certain });
        };
        let mut certain = false;
        if let (Some(marker), Some(header)) = (marker, files.header(first)?) {
            let anchor = Some((first, header.chain_before));
            let expected = survey::expected(&self.common);
            let dir = &files.dir;
            let judged = recovery::judge(dir, &expected, &marker, first, anchor, None, &mut |_| {});
            certain = judged.is_ok_and(|judged| judged.summary.next >= marker.next);
        }
        for (position, first) in files.firsts.iter().enumerate().rev() {
            let Some(last) = self.last_of(&files, *first)? else { continue };
            // Of segments without any entry, one that was just begun is no damage.
            let begun = files.firsts.get(position + 1).is_none_or(|next| *next == last.index + 1);
            return Ok(LogEnd { last: Some(last), certain: certain && begun });
        }
        Ok(LogEnd { last: None, certain: certain && first == 0 })
    }

    /// The last whole entry of a segment.
    fn last_of(&self, files: &Files, first: u64) -> Result<Option<EntryId>, DiskError> {
        let Some(file) = open(files, first)? else { return Ok(None) };
        let mut own = Own::new(first, Some(&file), &self.common)?;
        if let Ok(Some(Summary { leaders, .. })) = own.footer() {
            return Ok(leaders.last().copied());
        }
        let (mut last, mut index, mut offset) = (None, first, FRAMES_START);
        loop {
            match own.frame(offset)?.filter(|(header, _)| header.id.index == index) {
                Some((header, _)) => {
                    last = Some(header.id);
                    (index, offset) = (index + 1, offset + header.frame_size());
                }
                None => match own.following(offset, index)? {
                    Some(next) => (index, offset) = next,
                    None => return Ok(last),
                },
            }
        }
    }

    /// What is known of sealed segments: out of their footers, none of which is checked further.
    pub fn sealed(&self) -> Result<Vec<SegmentInfo>, DiskError> {
        let files = Files::list(&self.data, self.common)?;
        let mut sealed = Vec::new();
        for first in &files.firsts {
            let Some(file) = open(&files, *first)? else { continue };
            let summary = Own::new(*first, Some(&file), &self.common)?.footer();
            sealed.extend(summary.ok().flatten().map(|summary| summary.info(true)));
        }
        Ok(sealed)
    }
}

/// The segment's file; none if it is gone, or cannot be opened.
fn open(files: &Files, first: u64) -> Result<Option<File>, DiskError> {
    let name = segment::file_name(first);
    if !files.dir.exists(&name)? {
        return Ok(None);
    }
    Ok(files.dir.open_file_read_only(&name).ok())
}
