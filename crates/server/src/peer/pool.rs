//! The connection pool for requests to other members. Clients renew leases thousands of times a second, and a
//! connection for each renewal would use up the ports of the machine.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body_util::Full;
use hyper::client::conn::http1::SendRequest;
use tokio::sync::Semaphore;

use super::client::{ClientError, Reply, new_request, open, read_reply};
use crate::config::Url;
use crate::tls::Connector;

/// At most this many requests of one worker are under way at a time; more wait for these, within their time limit.
const AT_ONCE: usize = 64;
/// At most this many idle connections of one worker are kept.
pub const IDLE: usize = 8;

type Sender = SendRequest<Full<Bytes>>;

/// The connection pool of one worker.
#[derive(Debug)]
pub struct Pool {
    /// Idle connections with their URLs; the one used last is at the end.
    idle: RefCell<Vec<(String, Sender)>>,
    places: Semaphore,
    tls: Connector,
}

impl Pool {
    pub fn new(tls: Connector) -> Self {
        Self { idle: RefCell::default(), places: Semaphore::new(AT_ONCE), tls }
    }

    /// Like [`super::client::request`], but inside a local runtime only. A request may reach the peer twice, if a
    /// pooled connection breaks during the first attempt.
    ///
    /// # Errors
    /// [`ClientError`]. An answer of any status is no error.
    pub async fn request(
        &self,
        url: &Url,
        method: Method,
        path: &str,
        (headers, body): (HeaderMap, Bytes),
        timeout: Duration,
    ) -> Result<Reply, ClientError> {
        let new = || new_request(url, method.clone(), path, headers.clone(), Full::new(body.clone()));
        let exchange = async {
            let _place = self.places.acquire().await.expect("never closed");
            // The peer may have closed an idle connection, which is no reason to give up.
            while let Some(sender) = self.take(url) {
                if let Ok(reply) = self.exchange(url, sender, new()).await {
                    return Ok(reply);
                }
            }
            let sender = open(&self.tls, url, timeout, timeout).await?;
            self.exchange(url, sender, new()).await
        };
        let late = |_| ClientError::Timeout { url: url.text.clone(), after: timeout };
        tokio::time::timeout(timeout, exchange).await.unwrap_or_else(|elapsed| Err(late(elapsed)))
    }

    async fn exchange(
        &self,
        url: &Url,
        mut sender: Sender,
        request: http::Request<Full<Bytes>>,
    ) -> Result<Reply, ClientError> {
        let broken = |error| ClientError::Http { url: url.text.clone(), error };
        sender.ready().await.map_err(broken)?;
        let reply = read_reply(url, sender.send_request(request).await.map_err(broken)?).await?;
        self.keep(url, sender);
        Ok(reply)
    }

    fn take(&self, url: &Url) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|(_, sender)| !sender.is_closed());
        let at = idle.iter().rposition(|(text, _)| *text == url.text)?;
        Some(idle.remove(at).1)
    }

    fn keep(&self, url: &Url, sender: Sender) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= IDLE {
            idle.remove(0);
        }
        idle.push((url.text.clone(), sender));
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::url::parse;

    /// Answers with the number of the connection; each is closed after `requests`.
    async fn peer(requests: usize) -> (Url, Rc<Cell<usize>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = parse(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let accepted = Rc::new(Cell::new(0));
        let count = accepted.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.set(count.get() + 1);
                let number = count.get();
                tokio::task::spawn_local(async move {
                    for _ in 0..requests {
                        let mut seen = Vec::new();
                        while !seen.ends_with(b"ping") {
                            let Ok(byte) = stream.read_u8().await else { return };
                            seen.push(byte);
                        }
                        let reply = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
                        stream.write_all(reply.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        (url, accepted)
    }

    async fn ask(pool: &Pool, url: &Url) -> Bytes {
        let what = (HeaderMap::new(), Bytes::from_static(b"ping"));
        pool.request(url, Method::POST, "/leases", what, Duration::from_secs(20)).await.unwrap().body
    }

    #[tokio::test(flavor = "local")]
    async fn a_connection_serves_one_request_after_the_other() {
        let ((url, accepted), pool) = (peer(100).await, Pool::new(Connector::default()));
        for _ in 0..10 {
            assert_eq!(ask(&pool, &url).await, "1");
        }
        assert_eq!(accepted.get(), 1);
    }

    #[tokio::test(flavor = "local")]
    async fn a_connection_that_was_closed_is_replaced() {
        let ((url, accepted), pool) = (peer(2).await, Pool::new(Connector::default()));
        for _ in 0..10 {
            ask(&pool, &url).await;
        }
        assert_eq!(accepted.get(), 5);
    }

    #[tokio::test(flavor = "local")]
    async fn few_are_kept() {
        let ((url, accepted), pool) = (peer(100).await, Rc::new(Pool::new(Connector::default())));
        let asking: Vec<_> = (0..3 * IDLE)
            .map(|_| {
                let (pool, url) = (pool.clone(), url.clone());
                tokio::task::spawn_local(async move { ask(&pool, &url).await })
            })
            .collect();
        for asked in asking {
            asked.await.unwrap();
        }
        assert!(accepted.get() > IDLE);
        assert_eq!(pool.idle.borrow().len(), IDLE);
    }
}
