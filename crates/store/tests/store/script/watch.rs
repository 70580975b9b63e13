//! Commands about watchers.
//!
//! ```text
//!   stream NAME | close NAME
//!   watch STREAM KEY [end=KEY | prefix | from] [rev=N] [id=N] [prev_kv] [no_put] [no_delete] [fragment]
//!         [progress_notify]
//!   cancel STREAM ID | progress STREAM
//!   take STREAM [N]          takes N responses, or all
//!   catch_up [N]             N steps through history, or as many as there are to do
//!   deaf | hear | lost       the hub does not receive revisions; receives them again; is told that it lost some
//!   hub [fragment_bytes=N] [chunk_rows=N] [queue_responses=N] [progress_interval_ms=N]        a new hub
//! ```

use bytes::BytesMut;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::WatchResponse;
use metastore_store::watch::{Header, Hub, Limits, Response, StreamId, WatchSpec};
use std::sync::Arc;

use super::scripted_store::{ScriptedStore, or_nothing};
use super::trace;
use super::words::{Options, Result, bytes, number, word};

const WATCH_OPTIONS: [&str; 10] =
    ["end", "prefix", "from", "rev", "id", "prev_kv", "no_put", "no_delete", "fragment", "progress_notify"];
const HUB_OPTIONS: [&str; 4] = ["fragment_bytes", "chunk_rows", "queue_responses", "progress_interval_ms"];

impl ScriptedStore {
    pub fn run_watch(&mut self, command: &str, words: &[&str]) -> Result<Vec<String>> {
        match command {
            "stream" => {
                let stream = self.hub.open_stream(self.now_ms);
                self.streams.insert(word(words, 0)?.into(), stream);
            }
            "close" => {
                let stream = self.stream(words)?;
                self.hub.close_stream(stream);
            }
            "watch" => self.create(words)?,
            "cancel" => {
                let stream = self.stream(words)?;
                self.hub.cancel(stream, number(word(words, 1)?)?);
            }
            "progress" => {
                let stream = self.stream(words)?;
                self.hub.progress(stream);
            }
            "take" => return self.take(words),
            "catch_up" => {
                let mut left = words.first().map_or(Ok(usize::MAX), |word| number(word))?;
                while left > 0 && self.hub.catch_up().expect("the engine does not fail") {
                    left -= 1;
                }
                return Ok(vec![format!("{} unsynced", self.hub.counts().unsynced)]);
            }
            "deaf" => self.deaf = true,
            "hear" => self.deaf = false,
            "lost" => self.hub.lost(),
            "hub" => self.new_hub(words)?,
            other => return Err(format!("unknown command {other:?}")),
        }
        Ok(Vec::new())
    }

    fn stream(&self, words: &[&str]) -> Result<StreamId> {
        let name = word(words, 0)?;
        self.streams.get(name).copied().ok_or_else(|| format!("no stream {name:?}"))
    }

    fn create(&mut self, words: &[&str]) -> Result<()> {
        let stream = self.stream(words)?;
        let options = Options::new(words.get(2..).unwrap_or_default(), &WATCH_OPTIONS)?;
        let key = bytes(word(words, 1)?)?;
        let spec = WatchSpec {
            key: &key,
            range_end: &options.range_end(&key)?,
            start_revision: options.number("rev")?,
            prev_kv: options.has("prev_kv"),
            no_put: options.has("no_put"),
            no_delete: options.has("no_delete"),
            fragment: options.has("fragment"),
            progress_notify: options.has("progress_notify"),
            watch_id: options.number("id")?,
        };
        self.hub.create(stream, &spec);
        Ok(())
    }

    fn take(&mut self, words: &[&str]) -> Result<Vec<String>> {
        let stream = self.stream(words)?;
        let count = words.get(1).map_or(Ok(usize::MAX), |word| number(word))?;
        let mut out = Vec::new();
        for _ in 0..count {
            let Some(response) = self.hub.take(stream) else { break };
            out.extend(trace::watch(&as_client(&response)));
        }
        Ok(or_nothing(out))
    }

    fn new_hub(&mut self, words: &[&str]) -> Result<()> {
        let options = Options::new(words, &HUB_OPTIONS)?;
        let usual = Limits::default();
        let limit = |name: &str, usual: usize| options.get(name).map_or(Ok(usual), number);
        self.limits = Limits {
            fragment_bytes: limit("fragment_bytes", usual.fragment_bytes)?,
            chunk_rows: limit("chunk_rows", usual.chunk_rows)?,
            queue_responses: limit("queue_responses", usual.queue_responses)?,
            progress_interval_ms: limit("progress_interval_ms", usual.progress_interval_ms as usize)? as u64,
            ..usual
        };
        self.hub = Hub::new(Arc::new(self.store.view().clone()), self.limits);
        self.streams.clear();
        Ok(())
    }
}

/// The response as a client decodes it.
fn as_client(response: &Response) -> WatchResponse {
    let mut bytes = BytesMut::new();
    response.encode(&Header::default(), &mut bytes);
    WatchResponse::decode(bytes.freeze()).expect("a client can read it")
}
