//! Passwords: bcrypt, which is slow on purpose, away from the I/O threads.
//!
//! At most one computation per core runs at a time, whatever clients ask for, so that logins leave the engine thread
//! and the I/O threads their share of the processors. Further ones wait in the order of their arrival; a client that
//! goes away leaves the queue. A computation that has begun is finished.
//!
//! Hashes are as etcd's (Go's bcrypt), in both directions: `$2a$`, and a password is its first 72 bytes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_lc_rs::rand;
use bcrypt::{HashParts, Version, hash_with_salt};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use zeroize::Zeroizing;

/// Costs that bcrypt allows: twice the work for each step.
const COSTS: std::ops::RangeInclusive<u32> = 4..=31;

/// The cost in place of one that is not allowed, as in etcd.
const DEFAULT_COST: u32 = 10;

/// The bytes of a password that bcrypt uses. A longer password is refused when it is set, and cut when it is compared.
const MAX_PASSWORD_BYTES: usize = 72;

/// At most this many requests wait for a computation. So many clients may come back at once after a restart; each takes
/// only the memory of its request while it waits.
const MAX_WAITING: usize = 4096;

/// Computes and compares the hashes of passwords. All I/O threads share one.
pub struct Passwords {
    cost: u32,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    max_waiting: usize,
}

/// No answer about a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordError {
    #[error("bcrypt: password length exceeds 72 bytes")]
    TooLong,
    #[error("etcdserver: too many requests")]
    Busy,
    /// The thread of the request ends.
    #[error("etcdserver: server stopped")]
    Stopped,
    #[error("the system has no random numbers")]
    NoRandomness,
}

impl Passwords {
    /// `cores` computations run at a time (at least one). A cost that bcrypt does not allow is warned about, and 10 is
    /// used instead, as in etcd.
    pub fn new(cost: u32, cores: usize) -> Passwords {
        if !COSTS.contains(&cost) {
            tracing::warn!(
                "given-cost" = cost,
                "min-cost" = COSTS.start(),
                "max-cost" = COSTS.end(),
                "default-cost" = DEFAULT_COST,
                "--bcrypt-cost is out of its range; the default is used"
            );
        }
        Passwords {
            cost: if COSTS.contains(&cost) { cost } else { DEFAULT_COST },
            places: Arc::new(Semaphore::new(cores.max(1))),
            waiting: AtomicUsize::new(0),
            max_waiting: MAX_WAITING,
        }
    }

    /// The hash to store for a new password.
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        let password = Zeroizing::new(password);
        if password.len() > MAX_PASSWORD_BYTES {
            return Err(PasswordError::TooLong);
        }
        let mut salt = [0; 16];
        rand::fill(&mut salt).map_err(|_| PasswordError::NoRandomness)?;
        let cost = self.cost;
        let hash = move || hash_with_salt(password.as_bytes(), cost, salt).expect("the cost is allowed");
        Ok(self.run(hash).await?.format_for_version(Version::TwoA))
    }

    /// Whether a password has this hash. Nothing has a damaged hash. The time depends on the cost that the hash names,
    /// which other members may have chosen.
    pub async fn verify(&self, password: String, hash: Bytes) -> Result<bool, PasswordError> {
        let password = Zeroizing::new(password);
        let intact = |hash: &Bytes| str::from_utf8(hash).ok()?.parse::<HashParts>().ok();
        if intact(&hash).is_none_or(|parts| !COSTS.contains(&parts.get_cost())) {
            return Ok(false);
        }
        let equal = move |hash: &str| bcrypt::verify(password.as_bytes(), hash).unwrap_or(false);
        self.run(move || str::from_utf8(&hash).is_ok_and(equal)).await
    }

    /// Runs a computation once it has a place.
    async fn run<T: Send + 'static>(&self, compute: impl FnOnce() -> T + Send + 'static) -> Result<T, PasswordError> {
        let place = self.place().await?;
        let computed = tokio::task::spawn_blocking(move || {
            // Held until the end, even if nobody waits for the result any more.
            let _place = place;
            compute()
        });
        computed.await.map_err(|_| PasswordError::Stopped)
    }

    async fn place(&self) -> Result<OwnedSemaphorePermit, PasswordError> {
        if let Ok(place) = self.places.clone().try_acquire_owned() {
            return Ok(place);
        }
        let _waiting = Waiting::enter(&self.waiting, self.max_waiting).ok_or(PasswordError::Busy)?;
        self.places.clone().acquire_owned().await.map_err(|_| PasswordError::Stopped)
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").field("cost", &self.cost).finish_non_exhaustive()
    }
}

/// A request in the queue, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn enter(waiting: &'a AtomicUsize, most: usize) -> Option<Waiting<'a>> {
        let entered = Waiting(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < most).then_some(entered)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    /// Passwords, and hashes that Go's bcrypt made of them.
    const OF_GO: &[(&str, &str)] = &[
        ("", "$2a$04$7Gq3y0iiuy6nvKmAHMM2SeJshLg8d2WiYhu1R0iUmwSLGNi91w2SK"),
        ("a", "$2a$04$tjdTEErBF.UpkLUlLMYN1OHfnaNmlOBCeT7KJp4vR2BgZ0DVlykvS"),
        ("secret", "$2a$04$wUO7gnfoG2VJFjkldRj3VuzUjqctVgWVkXrtu/DrXZO4DiAjJ0XSu"),
        ("pässwörd", "$2a$04$PBr3QdcpYj9oTb/ge//ljevuOOeOEqGeEai10OJarUBcg9ozZkA9S"),
        ("nul\0inside", "$2a$04$m.ZKqGY/qfzlNXzUjpULHesAjbDpt3ufh7KKPgGYujF1aPbbNPQzy"),
        ("secret", "$2a$10$wypb4XTK/41p3YRAHhM39.ZTYovy5Zf1b.7Rq8ivJMF5sKb1UIaTS"),
    ];

    /// Go's hash of 72 times the letter p.
    const OF_72: &str = "$2a$04$v49ys1hpJNRDOw6zqi7yKedCWoYmkowwJBouoqRN8oTrJ81PJyZ86";

    fn passwords() -> Passwords {
        Passwords::new(4, 2)
    }

    async fn verify(password: &str, hash: &str) -> bool {
        passwords().verify(password.to_owned(), Bytes::copy_from_slice(hash.as_bytes())).await.unwrap()
    }

    #[tokio::test]
    async fn hashes_of_go_are_accepted() {
        for (password, hash) in OF_GO {
            assert!(verify(password, hash).await, "{password}");
            assert!(verify(password, &hash.replace("$2a$", "$2b$")).await, "{password}");
            assert!(!verify(&format!("{password}x"), hash).await, "{password}");
        }
        assert!(!verify("nul", OF_GO[4].1).await, "a zero does not end a password");
    }

    #[tokio::test]
    async fn a_hash_has_the_form_of_go() {
        for password in ["", "secret", "pässwörd", "nul\0inside"] {
            let hash = passwords().hash(password.to_owned()).await.unwrap();
            assert!(hash.starts_with("$2a$04$") && hash.len() == 60, "{hash}");
            assert!(verify(password, &hash).await && !verify("other", &hash).await, "{password}");
            assert_ne!(passwords().hash(password.to_owned()).await.unwrap(), hash, "salted");
        }
    }

    #[tokio::test]
    async fn a_password_is_its_first_72_bytes() {
        let letters = |count: usize| "p".repeat(count);
        assert_eq!(passwords().hash(letters(73)).await, Err(PasswordError::TooLong));
        assert_eq!(PasswordError::TooLong.to_string(), "bcrypt: password length exceeds 72 bytes");
        let own = passwords().hash(letters(72)).await.unwrap();
        for hash in [OF_72, &own] {
            assert!(verify(&letters(72), hash).await && verify(&letters(1000), hash).await);
            assert!(!verify(&letters(71), hash).await);
        }
        // The cut may go through a letter.
        let hash = passwords().hash(letters(70) + "ü").await.unwrap();
        assert!(verify(&(letters(70) + "üü"), &hash).await);
    }

    #[tokio::test]
    async fn nothing_has_a_damaged_hash() {
        let hash = OF_GO[2].1;
        let cut = &hash[..59];
        let cheap = hash.replace("$04$", "$03$");
        let never = hash.replace("$04$", "$32$");
        for damaged in ["", "secret", "$2a$", cut, &cheap, &never, &hash.replace("$04$", "$xx$"), &"ü".repeat(30)] {
            assert!(!verify("secret", damaged).await, "{damaged}");
        }
        assert_eq!(passwords().verify("secret".to_owned(), Bytes::from_static(&[0xff; 60])).await, Ok(false));
    }

    #[tokio::test]
    async fn a_cost_out_of_range_is_the_default() {
        for (given, used) in [(3, 10), (32, 10), (0, 10), (4, 4), (31, 31)] {
            assert_eq!(Passwords::new(given, 0).cost, used);
        }
    }

    #[tokio::test]
    async fn as_many_are_computed_at_a_time_as_there_are_cores() {
        let passwords = Arc::new(passwords());
        let (now, most) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (passwords, now, most) = (passwords.clone(), now.clone(), most.clone());
                tokio::spawn(async move {
                    let compute = move || {
                        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        hash_with_salt(b"secret", 4, [0; 16]).unwrap();
                        now.fetch_sub(1, Ordering::SeqCst);
                    };
                    passwords.run(compute).await.unwrap();
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let most = most.load(Ordering::SeqCst);
        assert!((1..=2).contains(&most), "{most} at a time");
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_those_who_go_leave_it() {
        let passwords = Passwords { max_waiting: 1, ..Passwords::new(4, 1) };
        let place = passwords.place().await.unwrap();
        {
            let mut first = pin!(passwords.hash("first".to_owned()));
            assert!(poll_fn(|cx| Poll::Ready(first.as_mut().poll(cx).is_pending())).await);
            assert_eq!(passwords.hash("second".to_owned()).await, Err(PasswordError::Busy));
            assert_eq!(PasswordError::Busy.to_string(), "etcdserver: too many requests");
        }
        let mut third = pin!(passwords.hash("third".to_owned()));
        assert!(poll_fn(|cx| Poll::Ready(third.as_mut().poll(cx).is_pending())).await);
        drop(place);
        assert!(third.await.is_ok());
        assert_eq!(passwords.waiting.load(Ordering::Relaxed), 0);
    }

    /// Prints the time of a hash, and hashes for other programs to verify; `cargo test --release -- --ignored
    /// --nocapture time_of`.
    #[tokio::test]
    #[ignore = "measures"]
    async fn time_of_a_hash() {
        let begin = std::time::Instant::now();
        for _ in 0..20 {
            Passwords::new(10, 1).hash("password".to_owned()).await.unwrap();
        }
        println!("cost 10: {:?}", begin.elapsed() / 20);
        for password in ["", "secret", "pässwörd", &"p".repeat(72)] {
            println!("{} {password}", Passwords::new(10, 1).hash(password.to_owned()).await.unwrap());
        }
    }
}
