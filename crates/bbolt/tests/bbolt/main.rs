//! Files of the writer, of real programs, and of nobody.

mod damaged;
mod handmade;
mod programs;
mod rows;
mod written;
