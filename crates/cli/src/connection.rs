//! A member, over gRPC.

use std::fs;
use std::time::Duration;

use http::uri::PathAndQuery;
use metastore_proto::Message;
use metastore_proto::etcdserverpb::{AuthenticateRequest, AuthenticateResponse};
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::arguments::Target;
use crate::failure::{Done, Failure, at};

/// An answer may be as long as a member makes it.
const MAX_ANSWER_BYTES: usize = i32::MAX as usize;
/// How often the connection is tested while a call waits.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// A connection to one member of a cluster; after a failure, to the next one.
pub struct Connection {
    target: Target,
    /// The number of the endpoint in use.
    at: usize,
    channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Connection {
    /// A connection to the first endpoint; it is made with the first call.
    ///
    /// # Errors
    /// If an argument cannot be used.
    pub fn new(target: &Target) -> Done<Self> {
        Ok(Self { target: target.clone(), at: 0, channel: channel(target, 0)?, token: None })
    }

    /// The endpoint in use.
    pub fn endpoint(&self) -> &str {
        &self.target.endpoints[self.at]
    }

    /// Goes to the next endpoint.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn next(&mut self) -> Done {
        self.at = (self.at + 1) % self.target.endpoints.len();
        self.channel = channel(&self.target, self.at)?;
        Ok(())
    }

    /// One request, one answer. Logs in before the first one, and again when the token has ended.
    ///
    /// # Errors
    /// That of the server or of the connection.
    pub async fn call<Q, R>(&mut self, path: &'static str, request: Q) -> Result<R, Status>
    where
        Q: Message + Clone + Default + 'static,
        R: Message + Default + 'static,
    {
        self.log_in().await?;
        match self.send(path, self.request(request.clone())).await {
            Err(status) if self.has_ended(&status) => {
                self.token = None;
                self.log_in().await?;
                self.send(path, self.request(request)).await
            }
            answer => answer,
        }
    }

    /// One request, many answers.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn stream<Q, R>(&mut self, path: &'static str, request: Q) -> Result<Streaming<R>, Status>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        self.log_in().await?;
        let mut grpc = self.ready().await?;
        let answer = grpc.server_streaming(self.request(request), PathAndQuery::from_static(path), codec()).await?;
        Ok(answer.into_inner())
    }

    /// Many requests, many answers.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub async fn exchange<Q, R>(
        &mut self,
        path: &'static str,
        requests: impl tokio_stream::Stream<Item = Q> + Send + 'static,
    ) -> Result<Streaming<R>, Status>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        self.log_in().await?;
        let mut grpc = self.ready().await?;
        let answer = grpc.streaming(self.request(requests), PathAndQuery::from_static(path), codec()).await?;
        Ok(answer.into_inner())
    }

    async fn send<Q, R>(&self, path: &'static str, request: Request<Q>) -> Result<R, Status>
    where
        Q: Message + Default + 'static,
        R: Message + Default + 'static,
    {
        let answer = self.ready().await?.unary(request, PathAndQuery::from_static(path), codec()).await?;
        Ok(answer.into_inner())
    }

    async fn ready(&self) -> Result<Grpc<Channel>, Status> {
        let mut grpc = Grpc::new(self.channel.clone()).max_decoding_message_size(MAX_ANSWER_BYTES);
        grpc.ready().await.map_err(|error| Status::unavailable(format!("{}: {}", self.endpoint(), causes(&error))))?;
        Ok(grpc)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("token", token.clone());
        }
        request
    }

    fn has_ended(&self, status: &Status) -> bool {
        let old = "revision of auth store is old";
        self.token.is_some() && (status.code() == Code::Unauthenticated || status.message().contains(old))
    }

    async fn log_in(&mut self) -> Result<(), Status> {
        let Some(user) = self.target.user.as_deref().filter(|_| self.token.is_none()) else { return Ok(()) };
        let (name, password) = match (&self.target.password, user.split_once(':')) {
            (Some(password), _) => (user, password.as_str()),
            (None, Some(pair)) => pair,
            (None, None) => return Err(Status::invalid_argument("give the password: --user NAME:PASSWORD")),
        };
        let request = AuthenticateRequest { name: name.into(), password: password.into() };
        let answer: AuthenticateResponse = self.send("/etcdserverpb.Auth/Authenticate", Request::new(request)).await?;
        let token = answer.token.parse().map_err(|_| Status::internal("the token of the server cannot be sent"))?;
        self.token = Some(token);
        Ok(())
    }
}

fn codec<Q: Message + Default + 'static, R: Message + Default + 'static>() -> ProstCodec<Q, R> {
    ProstCodec::default()
}

fn channel(target: &Target, at: usize) -> Done<Channel> {
    let endpoint = target.endpoints.get(at).ok_or_else(|| Failure::arguments("no endpoint is given"))?;
    let secure = endpoint.starts_with("https://")
        || !endpoint.contains("://") && (target.cacert.is_some() || target.cert.is_some());
    let host = endpoint.split_once("://").map_or(endpoint.as_str(), |(_, host)| host);
    let url = format!("{}://{host}", if secure { "https" } else { "http" });
    let wrong = |error: tonic::transport::Error| Failure::arguments(format!("{endpoint}: {}", causes(&error)));
    let mut to = Endpoint::from_shared(url).map_err(wrong)?.tcp_nodelay(true).connect_timeout(target.dial_timeout);
    to = to.http2_keep_alive_interval(KEEPALIVE);
    if secure {
        to = to.tls_config(tls(target)?).map_err(wrong)?;
    }
    Ok(to.connect_lazy())
}

fn tls(target: &Target) -> Done<ClientTlsConfig> {
    let read = |path: &std::path::PathBuf| fs::read(path).map_err(at(path));
    let mut tls = ClientTlsConfig::new();
    tls = match &target.cacert {
        Some(ca) => tls.ca_certificate(Certificate::from_pem(read(ca)?)),
        None => tls.with_native_roots(),
    };
    if let (Some(cert), Some(key)) = (&target.cert, &target.key) {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(tls)
}

/// An error with its causes, which name the reason of a failed connection.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
