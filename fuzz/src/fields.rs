//! Valid files with one field changed: a wrong number reaches code that random bytes do not, since everything before it is
//! valid.

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// Numbers at the edges of possible sizes, positions and their products.
const NUMBERS: [u64; 26] = [
    0,
    1,
    2,
    3,
    7,
    8,
    9,
    63,
    255,
    256,
    65_535,
    65_536,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    1 << 40,
    1 << 58,
    1 << 61,
    (1 << 61) + 1,
    1 << 62,
    (1 << 63) - 1,
    1 << 63,
    u64::MAX - 1,
    u64::MAX,
];

/// Replacements for a number in a text.
const TEXTS: [&str; 10] =
    ["-1", "1e308", "-1e999", "0.0", "NaN", "\"\"", "[]", "null", "1.5", "9999999999999999999999"];

/// Input `run` of a series: one of the files, with one to three fields changed, and noise in one of four.
pub fn input(files: &[Vec<u8>], series: u64, run: u64) -> Vec<u8> {
    let mut random = Random(series.rotate_left(32) ^ run);
    // Neighbouring numbers make unlike inputs.
    random.0 = random.next();
    let mut out = files[random.below(files.len())].clone();
    let mut changed = false;
    for _ in 0..1 + random.below(3) {
        let new = change(&out, random.next());
        if !new.is_empty() {
            (out, changed) = (new, true);
        }
    }
    if !changed || random.below(4) == 0 {
        noise(&mut out, &mut random);
    }
    out
}

/// Cuts bytes off the end, or replaces some, or flips bits.
fn noise(bytes: &mut Vec<u8>, random: &mut Random) {
    let kind = random.below(4);
    if kind == 0 {
        bytes.truncate(random.below(bytes.len()));
    }
    for _ in 0..1 + random.below(8) {
        let (at, new) = (random.below(bytes.len()), random.next());
        match bytes.get_mut(at) {
            Some(byte) if kind == 1 => *byte = new as u8,
            Some(byte) if kind > 1 => *byte ^= 1 << (new % 8),
            _ => {}
        }
    }
}

/// A file with one field changed; empty if it has none of the kind that the seed chooses.
pub fn change(bytes: &[u8], seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    match random.below(4) {
        0 => text(bytes, &mut random),
        1 => message(bytes, &mut random),
        2 => integer(bytes, &mut random),
        _ => twice(bytes, &mut random),
    }
}

/// Changes a number in a text or in a textual header. The length before the headers of safetensors and NumPy follows.
fn text(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let readable = &bytes[..bytes.len().min(1 << 16)];
    let digit = |i: usize| readable.get(i).is_some_and(u8::is_ascii_digit);
    let starts: Vec<usize> = (0..readable.len()).filter(|&i| digit(i) && (i == 0 || !digit(i - 1))).collect();
    if starts.is_empty() {
        return Vec::new();
    }
    let from = random.pick(&starts);
    let to = (from..).find(|&i| !digit(i)).unwrap_or(from);
    let number = match random.below(4) {
        0 => random.pick(&TEXTS).to_string(),
        _ => random.pick(&NUMBERS).to_string(),
    };
    let mut out = [&bytes[..from], number.as_bytes(), &bytes[to..]].concat();
    let grown = number.len() as i64 - (to - from) as i64;
    if bytes.get(8) == Some(&b'{') && from > 8 {
        let length = i64::from_le_bytes(bytes[..8].try_into().unwrap_or_default());
        out[..8].copy_from_slice(&length.wrapping_add(grown).to_le_bytes());
    } else if bytes.starts_with(b"\x93NUMPY\x01") && from > 10 {
        let length = i64::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        out[8..10].copy_from_slice(&(length.wrapping_add(grown) as u16).to_le_bytes());
    }
    out
}

/// Changes a number of two, four or eight bytes, in either order.
fn integer(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let size = random.pick(&[2, 4, 8]);
    if bytes.len() < size {
        return Vec::new();
    }
    let mut out = bytes.to_vec();
    let at = random.below(bytes.len().min(1 << 13) - size + 1);
    let number = random.pick(&NUMBERS).wrapping_add(random.below(3) as u64).wrapping_sub(1);
    let (little, big) = (number.to_le_bytes(), number.to_be_bytes());
    out[at..at + size].copy_from_slice(if random.below(2) == 0 { &little[..size] } else { &big[8 - size..] });
    out
}

/// Duplicates a piece of the file right after itself.
fn twice(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let from = random.below(bytes.len());
    let to = (from + 1 + random.below(64)).min(bytes.len());
    match bytes.get(from..to) {
        Some(piece) => [&bytes[..to], piece, &bytes[to..]].concat(),
        None => Vec::new(),
    }
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let b = *bytes.get(*at)?;
        *at += 1;
        n |= u64::from(b & 0x7f) << shift;
        if b & 0x80 == 0 {
            return Some(n);
        }
    }
    None
}

fn put(mut n: u64, out: &mut Vec<u8>) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Rewrites a Protocol Buffers message with field number `left`, counted through all nested ones, set to `new`; `None` if the bytes
/// are not a message.
fn rewrite(bytes: &[u8], deep: usize, left: &mut usize, new: u64) -> Option<Vec<u8>> {
    let (mut at, mut out) = (0, Vec::with_capacity(bytes.len() + 10));
    while at < bytes.len() {
        let key = varint(bytes, &mut at)?;
        (key >> 3 > 0).then_some(())?;
        put(key, &mut out);
        match key & 7 {
            0 => {
                let old = varint(bytes, &mut at)?;
                put(if *left == 0 { new } else { old }, &mut out);
                *left = left.wrapping_sub(1);
            }
            2 => {
                let n = usize::try_from(varint(bytes, &mut at)?).ok()?;
                let inner = bytes.get(at..at.checked_add(n)?)?;
                at += n;
                let before = *left;
                let inner = match if deep < 12 && n > 1 { rewrite(inner, deep + 1, left, new) } else { None } {
                    Some(changed) => changed,
                    None => {
                        *left = before;
                        inner.to_vec()
                    }
                };
                put(inner.len() as u64, &mut out);
                out.extend(inner);
            }
            size @ (1 | 5) => {
                let n = if size == 1 { 8 } else { 4 };
                out.extend(bytes.get(at..at + n)?);
                at += n;
            }
            _ => return None,
        }
    }
    Some(out)
}

/// Changes a number in a message, whose lengths follow.
fn message(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    let mut left = usize::MAX;
    if rewrite(bytes, 0, &mut left, 0).is_none() {
        return Vec::new();
    }
    let fields = usize::MAX - left;
    rewrite(bytes, 0, &mut random.below(fields), random.pick(&NUMBERS)).unwrap_or_default()
}
