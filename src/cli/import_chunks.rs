//! Cuts a file into chunks of encoded events: streaming, in bounded memory, each event encoded
//! once.

use std::io::{self, BufRead, BufReader, Read};

use bytes::{Bytes, BytesMut};
use indelible_core::limits::EVENT_BYTES_MAX;
use prost::Message;

use super::import::{Format, parse_line};

/// Encoded events of one chunk, in bytes, and lines: enough for the producer to fill large requests
/// with, and little enough that several are on their way to the nodes at once.
const CHUNK_BYTES: usize = 256 * 1024;
const CHUNK_LINES_MAX: usize = 1024;
/// How much of the file is read at once.
const READ_BYTES: usize = 256 * 1024;

/// Consecutive lines as events.
pub(super) struct Chunk {
    /// Number of the first line, from 1: its event's seq.
    pub(super) first_line: u64,
    /// Encoded; slices of one buffer.
    pub(super) events: Vec<Bytes>,
    /// Lines that the format's parser did not understand; kept as raw events.
    pub(super) unparsed: u64,
    /// Bytes of the lines, for progress.
    pub(super) read_bytes: u64,
}

/// Why a file cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChunkError {
    #[error(
        "line {line} makes an event of {size} bytes, the limit is {EVENT_BYTES_MAX}\n\
         hint: shorten or split the line and import again; the lines before it are recorded, and \
         not a second time then"
    )]
    TooLong { line: u64, size: u64 },
    #[error("read line {line}: {source}")]
    Read { line: u64, source: io::Error },
}

/// What is to be known about a file.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) format: Format,
    /// Of the producer; part of the events.
    pub(super) name: String,
    /// Of timestamps that have none.
    pub(super) year: Option<i16>,
}

/// The chunks of one file, in order.
pub(super) struct Chunks<R> {
    input: BufReader<R>,
    source: Source,
    /// Lines read so far.
    lines: u64,
    /// The current line, without its line feed; reused.
    line: Vec<u8>,
    /// Found behind the chunk that was handed out last.
    error: Option<ChunkError>,
}

impl<R: Read> Chunks<R> {
    pub(super) fn new(input: R, source: Source) -> Chunks<R> {
        let input = BufReader::with_capacity(READ_BYTES, input);
        Chunks { input, source, lines: 0, line: Vec::new(), error: None }
    }

    /// The next chunk; `None` at the end. An error comes after everything before it, and is final.
    pub(super) fn next(&mut self) -> Result<Option<Chunk>, ChunkError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        // Space for the last event too, so that the buffer moves at most once.
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES + 4096);
        let mut ends = Vec::with_capacity(CHUNK_LINES_MAX);
        let first_line = self.lines + 1;
        let (mut unparsed, mut read_bytes) = (0, 0);
        while ends.len() < CHUNK_LINES_MAX && buffer.len() < CHUNK_BYTES {
            match self.encode_line(&mut buffer) {
                Ok(None) => break,
                Ok(Some(recognized)) => {
                    unparsed += u64::from(!recognized);
                    read_bytes += self.line.len() as u64 + 1;
                    ends.push(buffer.len());
                }
                Err(error) if ends.is_empty() => return Err(error),
                Err(error) => {
                    self.error = Some(error);
                    break;
                }
            }
            // The next line may be long in coming, as from `tail -f`: what is here goes out.
            if self.input.buffer().is_empty() {
                break;
            }
        }
        if ends.is_empty() {
            return Ok(None);
        }
        let buffer = buffer.freeze();
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let events = starts.zip(&ends).map(|(start, end)| buffer.slice(start..*end)).collect();
        Ok(Some(Chunk { first_line, events, unparsed, read_bytes }))
    }

    /// Adds the next line's event to the buffer. Returns whether it was understood; `None` at the
    /// end of the file.
    fn encode_line(&mut self, buffer: &mut BytesMut) -> Result<Option<bool>, ChunkError> {
        let line = self.lines + 1;
        let Some(size) = self.read_line().map_err(|source| ChunkError::Read { line, source })?
        else {
            return Ok(None);
        };
        self.lines = line;
        if size > EVENT_BYTES_MAX as u64 {
            return Err(ChunkError::TooLong { line, size });
        }
        let Source { format, name, year } = &self.source;
        let parsed = parse_line(*format, name, line, &self.line, *year);
        let size = parsed.event.encoded_len();
        if size > EVENT_BYTES_MAX {
            return Err(ChunkError::TooLong { line, size: size as u64 });
        }
        parsed.event.encode(buffer).expect("a BytesMut grows");
        Ok(Some(parsed.recognized))
    }

    /// Reads a line into `self.line`, at most one byte more than an event may have, and returns its
    /// whole size.
    fn read_line(&mut self) -> io::Result<Option<u64>> {
        self.line.clear();
        let limit = EVENT_BYTES_MAX as u64 + 1;
        let read = self.input.by_ref().take(limit).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        if self.line.last() == Some(&b'\n') {
            self.line.pop();
            return Ok(Some(read as u64 - 1));
        }
        let rest = if read as u64 == limit { self.skip_line()? } else { 0 };
        Ok(Some(read as u64 + rest))
    }

    /// The rest of an over-long line is counted, not kept.
    fn skip_line(&mut self) -> io::Result<u64> {
        let mut size = 0;
        loop {
            let available = self.input.fill_buf()?;
            let end = available.iter().position(|byte| *byte == b'\n');
            let used = end.unwrap_or(available.len());
            size += used as u64;
            let is_over = end.is_some() || available.is_empty();
            self.input.consume(used + usize::from(end.is_some()));
            if is_over {
                return Ok(size);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indelible_proto::v1::Event;

    fn chunks(input: impl Read) -> (Vec<Chunk>, Option<ChunkError>) {
        let source = Source { format: Format::Jsonl, name: "test".into(), year: None };
        let mut chunks = Chunks::new(input, source);
        let mut all = Vec::new();
        loop {
            match chunks.next() {
                Ok(Some(chunk)) => all.push(chunk),
                Ok(None) => return (all, None),
                Err(error) => return (all, Some(error)),
            }
        }
    }

    fn raw(chunks: &[Chunk]) -> Vec<Vec<u8>> {
        let events = chunks.iter().flat_map(|chunk| &chunk.events);
        let decode = |event: &Bytes| Event::decode(event.clone()).expect("an event");
        events.map(|event| decode(event).raw.unwrap_or_default().bytes.to_vec()).collect()
    }

    #[test]
    fn every_line_is_an_event_with_its_number() {
        let text = b"one\n\n{\"actor\":\"a\"}\r\nlast without a line feed";
        let (all, error) = chunks(&text[..]);
        assert!(error.is_none());
        assert_eq!(all[0].first_line, 1);
        let lines = raw(&all);
        let expected = ["one", "", "{\"actor\":\"a\"}\r", "last without a line feed"];
        assert_eq!(lines, expected.map(|line| line.as_bytes().to_vec()));
        let read: u64 = all.iter().map(|chunk| chunk.read_bytes).sum();
        assert_eq!(read, text.len() as u64 + 1, "the last line counts as if it had a line feed");
    }

    #[test]
    fn chunks_are_bounded_and_numbered_without_gaps() {
        let text: Vec<u8> = (0..5000).flat_map(|n| format!("line {n}\n").into_bytes()).collect();
        let (all, error) = chunks(&text[..]);
        assert!(error.is_none());
        let mut next = 1;
        for chunk in &all {
            assert_eq!(chunk.first_line, next);
            assert!(chunk.events.len() <= CHUNK_LINES_MAX);
            next += chunk.events.len() as u64;
        }
        assert_eq!(next, 5001);
        assert!(all.len() >= 5);
    }

    #[test]
    fn an_overlong_line_is_told_with_its_size_after_all_before_it() {
        for size in [EVENT_BYTES_MAX, EVENT_BYTES_MAX + 1, 100 * EVENT_BYTES_MAX] {
            let long = vec![b'x'; size];
            let text = [b"one\ntwo\n", &long[..], b"\nthree\n"].concat();
            let (all, error) = chunks(&text[..]);
            assert_eq!(raw(&all), [b"one".to_vec(), b"two".to_vec()]);
            let Some(ChunkError::TooLong { line: 3, size: told }) = error else {
                panic!("{size} bytes were accepted");
            };
            // At the limit it is the event around the line that is too large.
            assert!(told == size as u64 || (size == EVENT_BYTES_MAX && told > size as u64));
        }
        let long = vec![b'x'; EVENT_BYTES_MAX - 300];
        let (all, error) = chunks(&long[..]);
        assert!(error.is_none() && raw(&all) == [long]);
    }

    #[test]
    fn what_is_here_goes_out_before_the_next_read() {
        /// Gives one line a read, as a pipe does.
        struct Slow(Vec<&'static [u8]>);
        impl Read for Slow {
            fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
                if self.0.is_empty() {
                    return Ok(0);
                }
                let line = self.0.remove(0);
                out[..line.len()].copy_from_slice(line);
                Ok(line.len())
            }
        }
        let (all, _) = chunks(Slow(vec![b"one\n", b"two\nthr", b"ee\n"]));
        let counts: Vec<usize> = all.iter().map(|chunk| chunk.events.len()).collect();
        assert_eq!(counts, [1, 2]);
    }
}
