//! The URLs of a peer, one of which is in use.

use parking_lot::Mutex;

use crate::config::Url;
use crate::config::url::parse;

#[derive(Debug, Default)]
struct State {
    urls: Vec<Url>,
    picked: usize,
}

/// The URL to try. All tasks that talk to the peer share the choice.
#[derive(Debug, Default)]
pub struct Urls(Mutex<State>);

impl Urls {
    /// Replaces the URLs. Those that cannot be used are logged, and left out.
    pub fn set(&self, id: u64, texts: &[String]) {
        let mut urls = Vec::new();
        for text in texts {
            match parse(text) {
                Ok(url) => urls.push(url),
                Err(error) => {
                    seldom!(warn, id, "remote-peer-id" = %format_args!("{id:x}"), error, "cannot use this peer URL");
                }
            }
        }
        *self.0.lock() = State { urls, picked: 0 };
    }

    /// The URL to try now; `None` if there is none at all.
    pub fn pick(&self) -> Option<Url> {
        let state = self.0.lock();
        state.urls.get(state.picked).cloned()
    }

    /// `url` was tried and failed: the next one is picked, unless another task has done so already.
    pub fn failed(&self, url: &Url) {
        let mut state = self.0.lock();
        if state.urls.get(state.picked) == Some(url) {
            state.picked = (state.picked + 1) % state.urls.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_turn_and_none_is_skipped_by_two_failures_of_one() {
        let urls = Urls::default();
        assert_eq!(urls.pick(), None);
        urls.set(1, &["http://a:1".into(), "gopher://b:1".into(), "http://c:1".into()]);
        let picked = || urls.pick().unwrap().text;
        let first = urls.pick().unwrap();
        urls.failed(&first);
        urls.failed(&first);
        assert_eq!(picked(), "http://c:1");
        urls.failed(&urls.pick().unwrap());
        assert_eq!(picked(), "http://a:1");
    }
}
