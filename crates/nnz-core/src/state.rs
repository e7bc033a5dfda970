//! What a checkpoint must hold: one function for both directions.

use crate::Result;

/// Visits the parts of a state by name: writing, it reads them; reading, it fills them.
pub trait Visit {
    /// Numbers of 32 bits.
    fn f32s(&mut self, name: &str, values: &mut Vec<f32>) -> Result<()>;

    /// Numbers of 64 bits.
    fn f64s(&mut self, name: &str, values: &mut Vec<f64>) -> Result<()>;

    /// Whole numbers of 32 bits.
    fn u32s(&mut self, name: &str, values: &mut Vec<u32>) -> Result<()>;

    /// A text.
    fn text(&mut self, name: &str, value: &mut String) -> Result<()>;

    /// One whole number.
    fn u64(&mut self, name: &str, value: &mut u64) -> Result<()> {
        let mut both = vec![*value as u32, (*value >> 32) as u32];
        self.u32s(name, &mut both)?;
        *value = both.iter().rev().fold(0, |n, &half| n << 32 | u64::from(half));
        Ok(())
    }

    /// One number.
    fn f64(&mut self, name: &str, value: &mut f64) -> Result<()> {
        let mut one = vec![*value];
        self.f64s(name, &mut one)?;
        *value = one.first().copied().unwrap_or(*value);
        Ok(())
    }
}

/// Something that goes through a checkpoint.
pub trait State {
    /// Shows every part to `v`, always under the same names.
    ///
    /// # Errors
    /// When what was kept does not fit.
    fn visit(&mut self, v: &mut dyn Visit) -> Result<()>;
}

/// Nothing to keep.
impl State for () {
    fn visit(&mut self, _: &mut dyn Visit) -> Result<()> {
        Ok(())
    }
}
