//! Images from PNG and JPEG files, for `nnz predict` and for folders of images.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::{Error, Result};

/// Largest file and largest image that are read.
const MAX_BYTES: u64 = 64 << 20;
const MAX_PIXELS: u64 = 1 << 24;

/// An image, gray or red, green and blue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// `[height][width][channels]`, 0 = dark, 255 = bright.
    pub pixels: Vec<u8>,
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// 1 or 3.
    pub channels: usize,
}

/// An image in the shape of a model's input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fitted {
    /// As many values as the model reads, 0 to 255, `[height][width][channels]`.
    pub pixels: Vec<u8>,
    /// A sentence to print if the image looks inverted.
    pub note: Option<String>,
}

/// Reads a PNG or JPEG; 16 bits are cut to 8.
///
/// # Errors
/// When the file cannot be read, is neither, is damaged, larger than 16 million pixels, or has transparent pixels (the
/// background of those is not in the file).
pub fn picture(path: &Path) -> Result<Picture> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|f| f.take(MAX_BYTES + 1).read_to_end(&mut bytes)).map_err(|why| Error::Io {
        what: "read",
        path: path.into(),
        why,
    })?;
    decode(&bytes).map_err(|why| Error::Content { place: path.display().to_string(), why })
}

/// Decodes a PNG or JPEG in memory.
pub(super) fn decode(bytes: &[u8]) -> Result<Picture, String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("larger than {} MiB; save it smaller", MAX_BYTES >> 20));
    }
    match bytes {
        [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => png(bytes),
        [0xff, 0xd8, 0xff, ..] => jpeg(bytes),
        _ => Err("neither a PNG nor a JPEG file; save the picture as one of them".into()),
    }
}

/// Refuses sizes beyond the limit, and sizes that so few bytes cannot hold: `most` is what one byte unpacks to at most.
/// `unpacked` is called after the limit was checked, since it might overflow before.
fn plausible(
    width: usize,
    height: usize,
    unpacked: impl FnOnce() -> usize,
    packed: usize,
    most: usize,
) -> Result<(), String> {
    if width as u64 * height as u64 > MAX_PIXELS {
        return Err(format!("{width} x {height} pixels; pictures over {MAX_PIXELS} pixels are not read"));
    }
    if unpacked() / most > packed {
        return Err(format!("cut off: {packed} bytes cannot hold {width} x {height} pixels"));
    }
    Ok(())
}

fn png(bytes: &[u8]) -> Result<Picture, String> {
    let damaged = |e: png::DecodingError| format!("a damaged PNG file ({e}); save it again");
    let limits = png::Limits { bytes: MAX_BYTES as usize };
    let mut decoder = png::Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(png::Transformations::normalize_to_color8());
    let info = decoder.read_header_info().map_err(damaged)?;
    let (width, height) = (info.width as usize, info.height as usize);
    // Deflate compresses to 1/1032 at best: a header that claims more is not worth an allocation.
    plausible(width, height, || info.raw_bytes(), bytes.len(), 1032)?;
    let mut reader = decoder.read_info().map_err(damaged)?;
    let mut values = vec![0; reader.output_buffer_size().ok_or("too large for this machine")?];
    let frame = reader.next_frame(&mut values).map_err(damaged)?;
    values.truncate(frame.buffer_size());
    let channels = frame.color_type.samples();
    let solid = matches!(frame.color_type, png::ColorType::Grayscale | png::ColorType::Rgb);
    if !solid {
        if let Some(at) = values.chunks_exact(channels).position(|c| c[channels - 1] != 255) {
            let (x, y) = (at % width, at / width);
            return Err(format!("the pixel at column {x}, row {y} is transparent; save it on a solid background"));
        }
        values = values.chunks_exact(channels).flat_map(|c| &c[..channels - 1]).copied().collect();
    }
    let channels = channels - usize::from(!solid);
    if values.len() != width * height * channels {
        return Err("it has another number of pixels than its header says; save it again".into());
    }
    Ok(Picture { pixels: values, width, height, channels })
}

fn jpeg(bytes: &[u8]) -> Result<Picture, String> {
    let damaged = |e: &dyn std::fmt::Display| format!("a damaged JPEG file ({}); save it again", e.to_string().trim());
    let most = MAX_PIXELS as usize;
    let options = DecoderOptions::default().set_strict_mode(true).set_max_width(most).set_max_height(most);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|e| damaged(&e))?;
    let info = decoder.info().ok_or("a JPEG file without a header; save it again")?;
    let gray = decoder.input_colorspace() == Some(ColorSpace::Luma);
    let (width, height, channels) = (usize::from(info.width), usize::from(info.height), if gray { 1 } else { 3 });
    // A block of 64 values takes at least one bit per scan.
    plausible(width, height, || width * height, bytes.len(), 8 * 64)?;
    decoder.set_options(options.jpeg_set_out_colorspace(if gray { ColorSpace::Luma } else { ColorSpace::RGB }));
    let pixels = decoder.decode().map_err(|e| damaged(&e))?;
    if pixels.len() != width * height * channels {
        return Err("it has another number of pixels than its header says; save it again".into());
    }
    Ok(Picture { pixels, width, height, channels })
}

impl Picture {
    /// Converts to gray by the luma weights of ITU-R BT.601.
    fn gray(&self) -> Vec<u8> {
        let luma =
            |c: &[u8]| ((299 * u32::from(c[0]) + 587 * u32::from(c[1]) + 114 * u32::from(c[2]) + 500) / 1000) as u8;
        match self.channels {
            1 => self.pixels.clone(),
            _ => self.pixels.chunks_exact(3).map(luma).collect(),
        }
    }
}

/// An image as input of a model that reads `image` (channels, height, width). Colours become gray for a model of gray
/// images, and gray becomes three equal channels for one of colours; nothing is resized or inverted.
///
/// # Errors
/// When the shapes differ; the message names both.
pub fn fit_to(picture: &Picture, image: [usize; 3]) -> Result<Fitted> {
    let [channels, height, width] = image;
    let got = format!("{} x {} pixels (width x height)", picture.width, picture.height);
    let want = format!("{width} x {height}");
    if (picture.width, picture.height) != (width, height) {
        return Err(Error::Shape { got, want, why: "crop or resize it first, nnz does neither" });
    }
    let pixels = match (channels, picture.channels) {
        (1, _) => picture.gray(),
        (3, 3) => picture.pixels.clone(),
        (3, _) => picture.pixels.iter().flat_map(|&p| [p; 3]).collect(),
        _ => {
            let want = format!("{want} of {channels} channels");
            return Err(Error::Shape { got, want, why: "only models of gray or coloured pictures can be asked" });
        }
    };
    let white = pixels.iter().filter(|&&p| p > 127).count();
    let note = (channels == 1 && 2 * white > pixels.len()).then(|| {
        let percent = 100.0 * white as f64 / pixels.len() as f64;
        format!(
            "{percent:.0}% of the picture is bright, but the digits of MNIST are white on black: \
             if the model learned from such pictures, invert this one first"
        )
    });
    Ok(Fitted { pixels, note })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png_of(width: u32, height: u32, color: png::ColorType, depth: png::BitDepth, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == png::ColorType::Indexed {
            encoder.set_palette(vec![0, 0, 0, 255, 0, 0]);
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
        out
    }

    #[test]
    fn every_kind_of_png_becomes_gray() {
        use png::BitDepth::{Eight, One, Sixteen};
        use png::ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
        for (color, depth, data, want) in [
            (Grayscale, Eight, &[0u8, 77][..], [0u8, 77]),
            (Grayscale, One, &[0b0100_0000], [0, 255]),
            (Grayscale, Sixteen, &[1, 200, 255, 3], [1, 255]),
            (GrayscaleAlpha, Eight, &[5, 255, 9, 255], [5, 9]),
            (Rgb, Eight, &[7, 7, 7, 255, 0, 0], [7, 76]),
            (Rgba, Eight, &[0, 255, 0, 255, 0, 0, 255, 255], [150, 29]),
            (Indexed, Eight, &[0, 1], [0, 76]),
        ] {
            let picture = decode(&png_of(2, 1, color, depth, data)).unwrap();
            assert_eq!((picture.width, picture.height), (2, 1));
            assert_eq!(picture.gray(), want, "{color:?} {depth:?}");
        }
        let clear = png_of(2, 1, png::ColorType::Rgba, Eight, &[1, 1, 1, 255, 1, 1, 1, 254]);
        assert!(decode(&clear).unwrap_err().contains("column 1, row 0 is transparent"));
    }

    #[test]
    fn bad_files_are_errors() {
        let good = png_of(3, 2, png::ColorType::Grayscale, png::BitDepth::Eight, &[1, 2, 3, 4, 5, 6]);
        assert!(decode(b"GIF89a").unwrap_err().contains("neither a PNG nor a JPEG"));
        for end in 0..good.len() - 12 {
            assert!(decode(&good[..end]).is_err(), "cut at {end}");
        }
        // Width and height are at bytes 16 to 24; the checksum of the chunk follows and must be forged too.
        let lie = |width: u32, height: u32| {
            let mut bytes = good.clone();
            bytes[16..20].copy_from_slice(&width.to_be_bytes());
            bytes[20..24].copy_from_slice(&height.to_be_bytes());
            let mut crc = flate2::Crc::new();
            crc.update(&bytes[12..29]);
            bytes[29..33].copy_from_slice(&crc.sum().to_be_bytes());
            decode(&bytes).unwrap_err()
        };
        assert!(lie(100_000, 100_000).contains("100000 x 100000 pixels; pictures over"));
        assert!(lie(u32::MAX, u32::MAX).contains("pictures over"));
        assert!(lie(4000, 4000).contains("cut off"), "{}", lie(4000, 4000));
        assert!(lie(30, 20).contains("damaged"), "{}", lie(30, 20));
        let missing = picture(Path::new("no/such/file.png")).unwrap_err().to_string();
        assert!(missing.starts_with("cannot read no/such/file.png"), "{missing}");
    }

    /// 16 x 16 pixels made by libjpeg at quality 90: a slope of gray, and a red and a blue half.
    const GRAY: &[u8] = include_bytes!("../tests/data/gray.jpg");
    const COLOUR: &[u8] = include_bytes!("../tests/data/colour.jpg");

    #[test]
    fn jpeg_is_read_in_gray_and_colour() {
        let gray = decode(GRAY).unwrap();
        assert_eq!((gray.width, gray.height, gray.channels), (16, 16, 1));
        let row = &gray.pixels[..16];
        assert!(row.is_sorted() && row[0] < 12 && row[15] > 230, "{row:?}");
        let colour = decode(COLOUR).unwrap();
        assert_eq!((colour.width, colour.height, colour.channels), (16, 16, 3));
        let [r, g, b] = colour.pixels[..3] else { panic!() };
        assert!(r > 220 && g < 30 && b < 30, "{r} {g} {b}");
        for end in (0..GRAY.len() - 2).step_by(7) {
            assert!(decode(&GRAY[..end]).is_err(), "cut at {end}");
        }
        // The frame header claims another size: height is at its bytes 5 and 6.
        let frame = GRAY.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
        let mut lie = GRAY.to_vec();
        lie[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
        assert!(decode(&lie).unwrap_err().contains("pictures over"));
        lie[frame + 5..frame + 9].copy_from_slice(&[0x0f, 0xff, 0x0f, 0xff]);
        assert!(decode(&lie).unwrap_err().contains("cut off"));
    }

    #[test]
    fn damaged_pictures_never_panic() {
        let data: Vec<u8> = (0..=255).collect();
        let good = png_of(16, 16, png::ColorType::Grayscale, png::BitDepth::Eight, &data);
        for t in 0..2000 {
            let mut r = nnz_core::Rng::stream(0, "damage", 1, t);
            let mut bytes = [&good, GRAY, COLOUR][t as usize % 3].to_vec();
            for _ in 0..=r.below(4) {
                let at = 8 + r.below(bytes.len() as u64 - 8) as usize;
                bytes[at] = r.bits() as u8;
            }
            if let Ok(p) = decode(&bytes) {
                assert_eq!(p.pixels.len(), p.width * p.height * p.channels);
            }
        }
    }

    #[test]
    fn only_the_models_shape_fits() {
        let of = |width, height, value| Picture { pixels: vec![value; width * height], width, height, channels: 1 };
        assert_eq!(fit_to(&of(3, 2, 9), [1, 2, 3]).unwrap(), Fitted { pixels: vec![9; 6], note: None });
        assert!(fit_to(&of(3, 2, 200), [1, 2, 3]).unwrap().note.unwrap().contains("100% of the picture is bright"));
        assert_eq!(fit_to(&of(3, 2, 9), [3, 2, 3]).unwrap().pixels, [9; 18]);
        for (image, words) in [([1, 3, 2], "reads 2 x 3"), ([4, 2, 3], "4 channels"), ([1, 1, 6], "reads 6 x 1")] {
            let e = fit_to(&of(3, 2, 9), image).unwrap_err().to_string();
            assert!(e.contains("3 x 2 pixels") && e.contains(words), "{e}");
        }
    }
}
