//! Frames: the decoder takes only what the encoder writes, at its place.
#![no_main]

#[allow(dead_code)]
#[path = "../common.rs"]
mod common;

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;

// By itself, so that this target does not need the whole server.
#[allow(dead_code)]
#[path = "../../src/storage/frame.rs"]
mod frame;

use frame::{FRAME_HEADER_SIZE, FrameHeader, Location};

const PLACE: Location = Location { segment: 7, offset: 96 };

fuzz_target!(init: common::write_seeds(&seeds()), |data: &[u8]| {
    check(data);
    // With checksums that fit, or no input would get past them: the input goes on after the header
    // checksum, whose fields for the other two are overwritten.
    let mut bytes = b"INDF\0\0\0\0".to_vec();
    bytes.extend_from_slice(data);
    if bytes.len() < FRAME_HEADER_SIZE {
        return;
    }
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    let size =
        |offset: usize| u32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap()) as usize;
    let (head, body) = (size(12), size(16));
    let seed = {
        let mut seed = [0; 16];
        seed[..8].copy_from_slice(&PLACE.segment.to_le_bytes());
        seed[8..].copy_from_slice(&PLACE.offset.to_le_bytes());
        crc32c::crc32c(&seed)
    };
    let payload = &bytes[FRAME_HEADER_SIZE..];
    if let Some(head_bytes) = payload.get(..head) {
        let crc = crc32c::crc32c_append(seed, head_bytes);
        let body_crc = payload
            .get(head..head.saturating_add(body))
            .map(|body| crc32c::crc32c_append(seed, body));
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        if let Some(crc) = body_crc {
            bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let crc = crc32c::crc32c_append(seed, &bytes[8..FRAME_HEADER_SIZE]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    check(&bytes);
});

fn check(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    if let Ok((entry, header)) = frame::decode(&bytes, PLACE) {
        assert_eq!(FrameHeader::new(&entry, header.chain, PLACE), header);
        // Not a byte of it could be another.
        let mut written = [&header.encode(PLACE)[..], &entry.head, &entry.body].concat();
        written.resize(header.frame_size() as usize, 0);
        assert!(bytes.starts_with(&written));
        // Nowhere else is it a frame.
        let elsewhere = Location { offset: PLACE.offset + 8, ..PLACE };
        assert!(frame::decode(&bytes, elsewhere).is_err());
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let frame = |batch: Vec<u8>| {
        let size = u16::from_le_bytes([batch[0], batch[1]]) as usize;
        let (head, body) = batch[2..].split_at(size);
        // Version, kind, reserved, sizes; then all of the header that may be anything.
        let mut frame = vec![1u8, 2, 0, 0];
        frame.extend((head.len() as u32).to_le_bytes());
        frame.extend((body.len() as u32).to_le_bytes());
        frame.extend([0; 76]);
        frame.extend([head, body].concat());
        frame
    };
    common::batches().into_iter().map(frame).collect()
}
