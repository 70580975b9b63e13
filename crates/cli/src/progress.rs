//! A bar on a terminal, and nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

/// A bar for so many bytes; without a number it only counts.
pub fn bytes(what: &'static str, total: Option<u64>) -> ProgressBar {
    let template = match total {
        Some(_) => "{msg} {bar:40} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        None => "{msg} {bytes} {bytes_per_sec}",
    };
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    bar.set_style(ProgressStyle::with_template(template).expect("the template is constant"));
    bar.with_message(what)
}

/// A count of keys.
pub fn keys(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {human_pos} keys {per_sec}").expect("the template is constant");
    ProgressBar::no_length().with_style(style).with_message(what)
}
