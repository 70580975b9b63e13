//! Messages in gzip: small ones are compressed and decompressed on the I/O thread, larger ones on the pool.

use bytes::Bytes;

use super::encoding::{Encoding, inflate};
use super::frame::{Cut, Frame};
use super::status::Status;

/// Larger messages are compressed and decompressed on the pool: this many bytes take a millisecond or two.
const INLINE_BYTES: usize = 16 * 1024;

/// Decompresses a message, if it is compressed.
pub(super) async fn decode(message: Cut, max_bytes: usize) -> Result<Bytes, Status> {
    match message {
        Cut::Plain(message) => Ok(message),
        Cut::Gzip(message) if message.len() <= INLINE_BYTES => inflate(&message, max_bytes),
        Cut::Gzip(message) => {
            let inflated = tokio::task::spawn_blocking(move || inflate(&message, max_bytes)).await;
            inflated.unwrap_or_else(|error| Err(Status::internal(format!("decompressing failed: {error}"))))
        }
    }
}

/// Compresses an answer, if the call's messages are compressed.
pub(super) async fn encode(frame: Frame, encoding: Encoding) -> Frame {
    match encoding {
        Encoding::Identity => frame,
        Encoding::Gzip if frame.message_bytes() <= INLINE_BYTES => frame.deflated(),
        Encoding::Gzip => {
            let plain = frame.clone();
            // Without a pool the process is ending. A message may always be sent uncompressed.
            tokio::task::spawn_blocking(move || frame.deflated()).await.unwrap_or(plain)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::PREFIX_BYTES;
    use super::super::status::Code;
    use super::*;

    fn gzip(message: &[u8]) -> Vec<u8> {
        let frame = Frame::write(message.len(), |buffer| buffer.extend_from_slice(message)).unwrap();
        frame.deflated().into_bytes()[PREFIX_BYTES..].to_vec()
    }

    fn refusal(message: &[u8]) -> String {
        let status = inflate(message, 100).unwrap_err();
        assert_eq!(status.code, Code::Internal);
        status.message.into_owned()
    }

    #[test]
    fn what_was_compressed_is_decompressed() {
        for message in [&b"a"[..], &[7; 100]] {
            assert_eq!(inflate(&gzip(message), 100).unwrap(), message);
        }
        let two = [gzip(b"one"), gzip(b"two")].concat();
        assert_eq!(inflate(&two, 100).unwrap(), &b"onetwo"[..]);
    }

    #[test]
    fn a_message_is_bounded_after_decompression() {
        let status = inflate(&gzip(&[0; 101]), 100).unwrap_err();
        assert_eq!(status.code, Code::ResourceExhausted);
        assert_eq!(status.message, "grpc: received message after decompression larger than max 100");
        let mut bomb = gzip(&vec![0; 64 << 20]);
        // Its end is damaged: nobody gets there.
        let end = bomb.len();
        bomb[end - 5] ^= 1;
        assert_eq!(inflate(&bomb, 100).unwrap_err().code, Code::ResourceExhausted);
    }

    #[test]
    fn what_is_no_gzip_is_refused_in_the_words_of_grpc_go() {
        let good = gzip(b"a message");
        let end = good.len();
        let begins = "grpc: failed to decompress the message: ";
        assert_eq!(refusal(b""), format!("{begins}EOF"));
        assert_eq!(refusal(b"abc"), format!("{begins}unexpected EOF"));
        assert_eq!(refusal(b"not gzip at all"), format!("{begins}gzip: invalid header"));
        assert_eq!(refusal(&good[..8]), format!("{begins}unexpected EOF"));
        let goes_on = "grpc: failed to read decompressed data: ";
        assert_eq!(refusal(&good[..end - 9]), format!("{goes_on}unexpected EOF"));
        let mut wrong = good.clone();
        wrong[end - 5] ^= 1;
        assert_eq!(refusal(&wrong), format!("{goes_on}gzip: invalid checksum"));
        let corrupt = [&good[..10], &[0xff; 3], &good[13..]].concat();
        assert_eq!(refusal(&corrupt), format!("{goes_on}flate: corrupt input"));
        let longer = [&good[..], b"and something else"].concat();
        assert_eq!(refusal(&longer), format!("{goes_on}gzip: invalid header"));
    }

    #[tokio::test]
    async fn large_messages_come_back_alike() {
        let message: Vec<u8> = (0..10 * INLINE_BYTES).map(|n| (n * n % 251) as u8).collect();
        let frame = Frame::write(message.len(), |buffer| buffer.extend_from_slice(&message)).unwrap();
        let compressed = encode(frame, Encoding::Gzip).await.into_bytes();
        assert_eq!(compressed[0], 1);
        let cut = Cut::Gzip(compressed.slice(PREFIX_BYTES..));
        assert_eq!(decode(cut, message.len()).await.unwrap(), message);
    }
}
