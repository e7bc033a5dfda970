//! The engine as its users see it, in one program: generic code is compiled anew for every test program.

mod files;
mod goldens;
mod leaves;
mod networks;
mod storage;
mod training;
