//! The checks find cheats and let honest methods pass.

mod cheats;
mod experiments;
