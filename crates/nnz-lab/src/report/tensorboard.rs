//! TensorBoard's event files: the curves of a network, for users who have it open anyway.
//!
//! A file is a sequence of records: length (u64), masked CRC-32C of the length, bytes, masked CRC-32C of the bytes, all
//! little-endian. The bytes are a protocol buffer `Event` of wall time (1), step (2), and either the version of the
//! format (3) or a summary (5) of one value (1): tag (1) and number (2).

use crate::run::record::EpochRecord;
use nnz_engine::Task;

/// The epochs of a network as an event file. `seconds` are the times of its epochs; they count from 1970, so that
/// equal runs of equal times are equal files and TensorBoard's relative axis shows the time of training.
pub fn events(task: Task, history: &[EpochRecord], seconds: &[f64]) -> Vec<u8> {
    let measure = format!("{}/validation", task.measure());
    let mut out = Vec::new();
    let mut version = field(1, 0.0f64.to_le_bytes().as_slice(), 1);
    version.extend(text(3, b"brain.Event:2"));
    record(&version, &mut out);
    let mut time = 0.0;
    for (i, e) in history.iter().enumerate() {
        time += seconds.get(i).copied().unwrap_or(0.0);
        let curves = [
            ("loss/training", e.loss),
            (&*measure, e.accuracy),
            ("sparsity/density", e.density),
            ("sparsity/connections made", e.grown as f64),
        ];
        for (tag, number) in curves {
            let mut value = text(1, tag.as_bytes());
            value.extend(field(2, &(number as f32).to_le_bytes(), 5));
            let mut event = field(1, &time.to_le_bytes(), 1);
            event.push(2 << 3);
            varint(e.step, &mut event);
            event.extend(text(5, &text(1, &value)));
            record(&event, &mut out);
        }
    }
    out
}

/// A field of fixed width: `kind` is 1 for eight bytes and 5 for four.
fn field(number: u8, bytes: &[u8], kind: u8) -> Vec<u8> {
    [&[number << 3 | kind], bytes].concat()
}

/// A field of bytes with their length.
fn text(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    varint(bytes.len() as u64, &mut out);
    out.extend(bytes);
    out
}

fn varint(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn record(bytes: &[u8], out: &mut Vec<u8>) {
    let masked = |bytes: &[u8]| crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes();
    let length = (bytes.len() as u64).to_le_bytes();
    out.extend(length);
    out.extend(masked(&length));
    out.extend(bytes);
    out.extend(masked(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_that_of_tensorboard() {
        let epoch = EpochRecord {
            epoch: 1,
            step: 300,
            loss: 0.5,
            accuracy: 0.75,
            density: 0.1,
            grown: 4,
            pruned: 4,
            explored: None,
            multiply_adds: 0.0,
        };
        let file = events(Task::Classification, &[epoch], &[1.5]);
        // A record of 24 bytes, its length's checksum, and the first bytes of the event, as every such file begins.
        let head = [24u8, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22, 9, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(file[..21], head);
        assert_eq!(&file[21..36], b"\x1a\x0dbrain.Event:2");
        let mut at = 0;
        let mut records = Vec::new();
        while at < file.len() {
            let n = u64::from_le_bytes(file[at..at + 8].try_into().unwrap()) as usize;
            records.push(&file[at + 12..at + 12 + n]);
            at += 16 + n;
        }
        assert_eq!((at, records.len()), (file.len(), 5));
        let first = [
            &[9][..],
            &1.5f64.to_le_bytes(),
            &[0x10, 0xac, 0x02, 0x2a, 22, 0x0a, 20, 0x0a, 13],
            b"loss/training",
            &[0x15],
            &0.5f32.to_le_bytes(),
        ];
        assert_eq!(records[1], first.concat());
    }
}
