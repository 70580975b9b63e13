//! HTTP/2 without a gRPC stack, in plain text or over TLS, for the load generator: little processor time for a request.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::SendRequest;
use http::{HeaderValue, Request};
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::paths;

/// The HTTP/2 window size, large enough that the server never waits.
const WINDOW_BYTES: u32 = 16 << 20;
/// The length of the gRPC message prefix: a flag, and the length.
const PREFIX_BYTES: usize = 5;

pub type Failure = Box<dyn std::error::Error>;

/// A server to measure, and all that its connections and requests have in common.
pub struct Server {
    address: String,
    tls: Option<Tls>,
    token: Option<HeaderValue>,
}

struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Server {
    /// The server at an address ("127.0.0.1:2379"). With a file of trusted certificates it is asked over TLS 1.3,
    /// never resumed, and its certificate is verified.
    ///
    /// # Errors
    /// The file has no usable certificates, or the address has no valid host.
    pub fn new(address: &str, ca: Option<&str>) -> Result<Server, Failure> {
        let tls = ca.map(|ca| Tls::new(address, ca)).transpose()?;
        Ok(Server { address: address.into(), tls, token: None })
    }

    /// From now on, each request shows the token of this login.
    ///
    /// # Errors
    /// The login is refused, or the connection broke.
    pub async fn log_in(&mut self, name: &str, password: &str) -> Result<(), Failure> {
        let login = AuthenticateRequest { name: name.into(), password: password.into() };
        let answer = self.ask(self.connect().await?, paths::AUTHENTICATE, &login).await?;
        self.token = Some(AuthenticateResponse::decode(answer)?.token.parse()?);
        Ok(())
    }

    /// A new connection, which a task of the present `LocalSet` drives.
    ///
    /// # Errors
    /// The server does not answer, or its certificate is not accepted.
    pub async fn connect(&self) -> Result<SendRequest<Bytes>, Failure> {
        let socket = self.socket().await?;
        match &self.tls {
            None => speak(socket).await,
            Some(tls) => speak(tls.connect(socket).await?).await,
        }
    }

    /// A new connection with a TLS handshake and no request. Returns when the server has closed it as well, and so has
    /// done all of its part.
    ///
    /// # Errors
    /// As for [`Server::connect`]; or the server is asked in plain text.
    pub async fn shake_hands(&self) -> Result<(), Failure> {
        let tls = self.tls.as_ref().ok_or("a handshake needs ca=FILE")?;
        let mut stream = tls.connect(self.socket().await?).await?;
        stream.shutdown().await?;
        // A server may as well answer with a reset.
        drop(stream.read_to_end(&mut Vec::new()).await);
        Ok(())
    }

    async fn socket(&self) -> Result<TcpStream, Failure> {
        let socket = TcpStream::connect(&self.address).await?;
        socket.set_nodelay(true)?;
        Ok(socket)
    }

    /// A request without its message.
    ///
    /// # Errors
    /// The path is not valid.
    pub fn request(&self, path: &str) -> Result<Request<()>, http::Error> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let request = Request::post(format!("{scheme}://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        self.token.iter().fold(request, |request, token| request.header("token", token)).body(())
    }

    /// One request, one answer.
    ///
    /// # Errors
    /// There is no answer with a message.
    pub async fn ask(&self, client: SendRequest<Bytes>, path: &str, message: &impl Message) -> Result<Bytes, Failure> {
        let (answer, mut body) = client.ready().await?.send_request(self.request(path)?, false)?;
        body.send_data(framed(message), true)?;
        let mut answer = answer.await?.into_body();
        let mut received = BytesMut::new();
        while let Some(data) = answer.data().await {
            let data = data?;
            answer.flow_control().release_capacity(data.len())?;
            received.extend_from_slice(&data);
        }
        cut(&mut received).ok_or_else(|| format!("{path} is not answered").into())
    }
}

impl Tls {
    fn new(address: &str, ca: &str) -> Result<Tls, Failure> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).map_err(|error| format!("{ca}: {error}"))? {
            roots.add(certificate?)?;
        }
        // The suite that clients in Go prefer, and no other: left to choose, servers would differ in their work.
        let cipher_suites = vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
        let provider = CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.resumption = Resumption::disabled();
        let (host, _) = address.rsplit_once(':').ok_or_else(|| format!("{address}: want HOST:PORT"))?;
        Ok(Tls { connector: Arc::new(config).into(), name: ServerName::try_from(host.to_owned())? })
    }

    async fn connect(&self, socket: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), socket).await
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

async fn speak<S: AsyncRead + AsyncWrite + Unpin + 'static>(stream: S) -> Result<SendRequest<Bytes>, Failure> {
    let (client, connection) = h2::client::Builder::new()
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .handshake(Gathered(stream))
        .await?;
    // A broken connection shows as an error of its requests.
    tokio::task::spawn_local(async move { drop(connection.await) });
    Ok(client)
}

/// A stream that takes one slice at a time. The library then copies small messages behind their headers, and those of
/// many requests share a system call and a TLS record, as in other clients. Otherwise each request takes its own.
struct Gathered<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A gRPC body of one uncompressed message.
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(PREFIX_BYTES + length);
    body.put_u8(0);
    body.put_u32(length as u32);
    message.encode(&mut body).expect("there is room");
    body.freeze()
}

/// The next whole message.
pub fn cut(received: &mut BytesMut) -> Option<Bytes> {
    let length = received.get(1..PREFIX_BYTES)?.get_u32() as usize;
    if received.len() < PREFIX_BYTES + length {
        return None;
    }
    received.advance(PREFIX_BYTES);
    Some(received.split_to(length).freeze())
}
