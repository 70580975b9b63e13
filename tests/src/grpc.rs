//! A gRPC client without generated stubs: a path, a message, an answer.

use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::TcpStream;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder, Streaming};
use tonic::codegen::Service;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

use crate::certificates::Authority;

/// Whether the server never processed the request that failed with this status. Either the server said so when it
/// closed the connection (GOAWAY), or the request never left the client. After such a failure a client may safely ask
/// another member, and etcd's clients do.
pub fn never_taken(status: &Status) -> bool {
    let cause = format!("{:?}", std::error::Error::source(status));
    ["GoAway(b\"\", NO_ERROR, Remote)", "Canceled", "ConnectError"].iter().any(|sign| cause.contains(sign))
}

/// Connects to an address the first time it is asked.
struct ConnectOnce {
    address: Option<String>,
}

impl Service<Uri> for ConnectOnce {
    type Response = TokioIo<TcpStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<TcpStream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let address = self.address.take();
        Box::pin(async move {
            let address = address.ok_or_else(|| io::Error::other("the one connection has ended"))?;
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(stream))
        })
    }
}

/// One connection to one member. Clones share the connection.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Client {
    /// A client of the member at `address` ("127.0.0.1:2379"); it connects with the first call.
    pub fn new(address: &str) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address is a valid URI");
        Client { channel: endpoint.tcp_nodelay(true).connect_lazy(), token: None }
    }

    /// A client that, once its connection has ended, makes no other. So each of its requests came to a server that had
    /// taken the connection, and [`never_taken`] knows all that this server did not process. A connection that is made
    /// while a server ends may be reset before the server sees it, and then its client cannot know.
    pub fn of_one_connection(address: &str) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address is a valid URI");
        let connect = ConnectOnce { address: Some(address.to_string()) };
        Client { channel: endpoint.connect_with_connector_lazy(connect), token: None }
    }

    /// A client with TLS that trusts a CA, and shows the certificate `name` that this has signed.
    pub fn with_certificate(address: &str, ca: &Authority, name: &str) -> Client {
        let read = |name: &str| std::fs::read(ca.path(name)).expect("it was signed");
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("ca.crt")));
        let shown = Identity::from_pem(read(&format!("{name}.crt")), read(&format!("{name}.key")));
        let endpoint = Endpoint::from_shared(format!("https://{address}")).expect("an address is a valid URI");
        let endpoint = endpoint.tls_config(tls.identity(shown)).expect("the certificate and its key are readable");
        Client { channel: endpoint.tcp_nodelay(true).connect_lazy(), token: None }
    }

    /// The same connection for a user who has logged in: each call shows the token.
    pub fn with_token(&self, token: &str) -> Client {
        let token = token.parse().expect("a token is visible ASCII");
        Client { channel: self.channel.clone(), token: Some(token) }
    }

    fn request<Q>(&self, message: Q) -> Request<Q> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    /// One request, one answer. Errors are the server's status, or tonic's own for a broken connection.
    pub async fn unary<Q: Message + 'static, R: Message + Default + 'static>(
        &self,
        path: &'static str,
        request: Q,
    ) -> Result<R, Status> {
        self.send(path, self.request(request)).await
    }

    /// Like [`Client::unary`], with `hasleader` in the metadata: a member without a leader refuses it at once.
    pub async fn unary_with_leader<Q: Message + 'static, R: Message + Default + 'static>(
        &self,
        path: &'static str,
        request: Q,
    ) -> Result<R, Status> {
        let mut request = self.request(request);
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        self.send(path, request).await
    }

    async fn send<Q: Message + 'static, R: Message + Default + 'static>(
        &self,
        path: &'static str,
        request: Request<Q>,
    ) -> Result<R, Status> {
        let mut grpc = self.ready().await?;
        Ok(grpc.unary(request, PathAndQuery::from_static(path), Protobuf::new()).await?.into_inner())
    }

    /// One request; returns all answers of the stream in order.
    pub async fn server_stream<Q: Message + 'static, R: Message + Default + 'static>(
        &self,
        path: &'static str,
        request: Q,
    ) -> Result<Vec<R>, Status> {
        let mut stream = self.open_server_stream(path, request).await?;
        let mut answers = Vec::new();
        while let Some(answer) = stream.message().await? {
            answers.push(answer);
        }
        Ok(answers)
    }

    /// One request; the answers stay on the connection until the caller takes them.
    pub async fn open_server_stream<Q: Message + 'static, R: Message + Default + 'static>(
        &self,
        path: &'static str,
        request: Q,
    ) -> Result<Streaming<R>, Status> {
        let mut grpc = self.ready().await?;
        let path = PathAndQuery::from_static(path);
        Ok(grpc.server_streaming(self.request(request), path, Protobuf::new()).await?.into_inner())
    }

    /// A stream in both directions; returns when the server has sent its headers. The requests end when the sender of
    /// `requests` is dropped.
    pub async fn bidirectional<Q: Message + 'static, R: Message + Default + 'static>(
        &self,
        path: &'static str,
        requests: UnboundedReceiverStream<Q>,
    ) -> Result<Streaming<R>, Status> {
        let mut grpc = self.ready().await?;
        let requests = self.request(requests);
        let answers = grpc.streaming(requests, PathAndQuery::from_static(path), Protobuf::new()).await?;
        Ok(answers.into_inner())
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        // Answers have no size limit here: a test requests only as much as it can hold.
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(usize::MAX);
        grpc.ready().await.map_err(|error| Status::unavailable(format!("not connected: {error:?}")))?;
        Ok(grpc)
    }
}

/// Encodes `Q` and decodes `R` with prost.
struct Protobuf<Q, R>(PhantomData<(Q, R)>);

impl<Q, R> Protobuf<Q, R> {
    fn new() -> Self {
        Protobuf(PhantomData)
    }
}

impl<Q: Message + 'static, R: Message + Default + 'static> Codec for Protobuf<Q, R> {
    type Encode = Q;
    type Decode = R;
    type Encoder = Protobuf<Q, R>;
    type Decoder = Protobuf<Q, R>;

    fn encoder(&mut self) -> Self::Encoder {
        Protobuf::new()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Protobuf::new()
    }
}

impl<Q: Message, R> Encoder for Protobuf<Q, R> {
    type Item = Q;
    type Error = Status;

    fn encode(&mut self, message: Q, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.reserve(message.encoded_len());
        message.encode_raw(buffer);
        Ok(())
    }
}

impl<Q, R: Message + Default> Decoder for Protobuf<Q, R> {
    type Item = R;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<R>, Status> {
        let message = R::decode(buffer).map_err(|error| Status::internal(format!("answer is no protobuf: {error}")))?;
        Ok(Some(message))
    }
}
