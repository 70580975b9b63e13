//! What metrics are made of: counters ([`tally`]) and distributions ([`histogram`]), each written by one thread, and the
//! page that shows them ([`text`]).

pub mod histogram;
pub mod tally;
pub mod text;
