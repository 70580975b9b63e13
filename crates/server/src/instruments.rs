//! The parts of metrics: counters ([`tally`]) and distributions ([`histogram`]), each written by one thread; the times
//! of requests ([`requests`]); and the page that shows them ([`text`]).

pub mod histogram;
pub mod requests;
pub mod tally;
pub mod text;
