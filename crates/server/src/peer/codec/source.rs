//! An HTTP body as a source of exact pieces.

use std::time::Duration;

use bytes::{Buf, Bytes};
use http_body::Body;
use http_body_util::BodyExt;

/// Bytes that are reserved at first for a piece whose length was announced; more is reserved as more arrives.
const FIRST_RESERVATION_BYTES: usize = 64 << 10;

/// Why a stream cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The other side ended the body between two frames.
    #[error("EOF")]
    Ended,
    #[error("unexpected EOF: the stream ended inside a frame")]
    Cut,
    /// Not even a heartbeat arrived.
    #[error("i/o timeout: nothing was received for {0:?}")]
    Silent(Duration),
    #[error("connection lost: {0}")]
    Lost(String),
    #[error("a frame of {bytes} bytes exceeds the limit of {limit}")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("malformed frame: {0}")]
    Malformed(String),
}

/// Reads a body piece by piece.
#[derive(Debug)]
pub struct Source<B> {
    body: B,
    chunk: Bytes,
    patience: Duration,
}

impl<B: Body<Data = Bytes, Error: std::fmt::Display> + Unpin> Source<B> {
    /// `patience`: how long the body may be silent.
    pub fn new(body: B, patience: Duration) -> Source<B> {
        Source { body, chunk: Bytes::new(), patience }
    }

    /// The next bytes, as they arrive; `None` at the end of the body.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Broken> {
        while self.chunk.is_empty() {
            let frame = tokio::time::timeout(self.patience, self.body.frame()).await;
            match frame.map_err(|_elapsed| Broken::Silent(self.patience))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(Broken::Lost(error.to_string())),
                Some(Ok(frame)) => self.chunk = frame.into_data().unwrap_or_default(),
            }
        }
        Ok(Some(std::mem::take(&mut self.chunk)))
    }

    /// One byte; [`Broken::Ended`] if the body ends before it.
    pub async fn byte(&mut self) -> Result<u8, Broken> {
        let mut piece = self.piece().await?.ok_or(Broken::Ended)?;
        let byte = piece.get_u8();
        self.chunk = piece;
        Ok(byte)
    }

    /// A number that begins a frame: the body may end before it.
    pub async fn first_number(&mut self) -> Result<u64, Broken> {
        let first = self.byte().await?;
        let mut rest = [0; 7];
        self.fill(&mut rest).await?;
        Ok(rest.iter().fold(u64::from(first), |number, &byte| number << 8 | u64::from(byte)))
    }

    /// A number inside a frame.
    pub async fn number(&mut self) -> Result<u64, Broken> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes).await?;
        Ok(u64::from_be_bytes(bytes))
    }

    /// Exactly `length` bytes, at most `limit`, in memory of their own.
    pub async fn bytes(&mut self, length: u64, limit: u64) -> Result<Bytes, Broken> {
        if length > limit {
            return Err(Broken::TooLarge { bytes: length, limit });
        }
        let length = usize::try_from(length).map_err(|_| Broken::TooLarge { bytes: length, limit })?;
        let mut bytes = Vec::with_capacity(length.min(FIRST_RESERVATION_BYTES));
        while bytes.len() < length {
            let mut piece = self.piece().await?.ok_or(Broken::Cut)?;
            let taken = piece.split_to(piece.len().min(length - bytes.len()));
            if bytes.len() + taken.len() > bytes.capacity() {
                // Grows to twice the bytes that have arrived, as a vector does by itself, but never beyond the end.
                let most = length - bytes.len();
                bytes.reserve_exact(bytes.len().clamp(taken.len(), most));
            }
            bytes.extend_from_slice(&taken);
            self.chunk = piece;
        }
        Ok(bytes.into())
    }

    async fn fill(&mut self, into: &mut [u8]) -> Result<(), Broken> {
        let mut filled = 0;
        while filled < into.len() {
            let mut piece = self.piece().await?.ok_or(Broken::Cut)?;
            let taken = piece.split_to(piece.len().min(into.len() - filled));
            into[filled..filled + taken.len()].copy_from_slice(&taken);
            filled += taken.len();
            self.chunk = piece;
        }
        Ok(())
    }
}
