//! One WAV file: samples in [-1, 1], `[samples][channels]`.

use super::content;
use crate::Result;
use hound::{SampleFormat, WavReader};
use std::io::Cursor;

/// A clip in memory.
#[derive(Debug)]
pub(super) struct Clip {
    pub channels: usize,
    pub rate: u32,
    pub values: Vec<f32>,
}

pub(super) fn parse(bytes: &[u8], place: &str) -> Result<Clip> {
    let broken = |e: hound::Error| content(place, format!("no whole WAV file ({e}); save it as uncompressed PCM"));
    let mut reader = WavReader::new(Cursor::new(bytes)).map_err(broken)?;
    let spec = reader.spec();
    let channels = usize::from(spec.channels);
    if channels == 0 || spec.sample_rate == 0 {
        return Err(content(place, format!("{channels} channels at {} Hz", spec.sample_rate)));
    }
    let values: Vec<f32> = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().collect::<Result<_, _>>().map_err(broken)?,
        SampleFormat::Int => {
            let scale = 1.0 / (1u64 << (spec.bits_per_sample.clamp(1, 32) - 1)) as f32;
            reader.samples::<i32>().map(|s| s.map(|s| s as f32 * scale)).collect::<Result<_, _>>().map_err(broken)?
        }
    };
    if values.is_empty() || !values.len().is_multiple_of(channels) {
        return Err(content(place, format!("{} samples in {channels} channels; save it again", values.len())));
    }
    Ok(Clip { channels, rate: spec.sample_rate, values })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn clip(rate: u32, channels: u16, samples: &[i16]) -> Vec<u8> {
        let spec =
            hound::WavSpec { channels, sample_rate: rate, bits_per_sample: 16, sample_format: SampleFormat::Int };
        let mut out = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut out, spec).unwrap();
        samples.iter().for_each(|&s| writer.write_sample(s).unwrap());
        writer.finalize().unwrap();
        out.into_inner()
    }

    #[test]
    fn samples_lie_between_minus_one_and_one() {
        let c = parse(&clip(8000, 2, &[0, 16384, -32768, 32767]), "c").unwrap();
        assert_eq!((c.channels, c.rate, &c.values[..3]), (2, 8000, &[0.0, 0.5, -1.0][..]));
        let good = clip(8000, 1, &[1, 2, 3]);
        for bytes in [&b""[..], b"RIFF", b"\x89PNG", &good[..20], &good[..good.len() - 1]] {
            let e = parse(bytes, "c").unwrap_err().to_string();
            assert!(e.starts_with("c: "), "{e}");
        }
        assert!(parse(&clip(8000, 1, &[]), "c").is_err());
    }
}
