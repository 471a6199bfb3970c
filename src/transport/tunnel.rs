//! A tunnel through a forward proxy: the `CONNECT` request and the proxy's response.

use std::io;

use secrecy::ExposeSecret as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use url::Host;

use super::proxy::Proxy;

/// The longest head of a response that is read, in bytes.
const HEAD_LIMIT: usize = 16 * 1024;

/// The most headers of a response that are read.
const MAX_HEADERS: usize = 64;

/// The start of a proxy's response to `CONNECT`.
enum TunnelResponse {
    Partial,
    /// An interim response (1xx) of this length, in bytes.
    Interim(usize),
    /// The tunnel is open. The head ends after `length` bytes.
    Open {
        length: usize,
    },
    Rejected {
        status: u16,
    },
}

/// Asks `proxy` for a tunnel to the platform, over `stream`, a connection to the proxy.
pub(crate) async fn open_tunnel(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    proxy: &Proxy,
    host: &Host<String>,
    port: u16,
) -> io::Result<()> {
    let target = format!("{host}:{port}");
    let authorization = proxy.authorization.as_ref().map_or(String::new(), |value| {
        format!("Proxy-Authorization: {}\r\n", value.expose_secret())
    });
    let request = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{authorization}\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;

    let mut received = Vec::new();
    loop {
        match parse_response(&received)? {
            // The final response may have arrived with the interim response.
            TunnelResponse::Interim(length) => drop(received.drain(..length)),
            TunnelResponse::Open { length } if length == received.len() => return Ok(()),
            // In TLS, the client speaks first, so these bytes are not from the platform.
            TunnelResponse::Open { .. } => return Err(invalid("the proxy sent data after its response")),
            TunnelResponse::Rejected { status } => {
                return Err(io::Error::other(format!("the proxy answered {status}")));
            }
            TunnelResponse::Partial if received.len() > HEAD_LIMIT => {
                return Err(invalid("the head of the proxy's response is too long"));
            }
            TunnelResponse::Partial => {
                if stream.read_buf(&mut received).await? == 0 {
                    let reason = "the proxy closed the connection";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, reason));
                }
            }
        }
    }
}

fn parse_response(bytes: &[u8]) -> io::Result<TunnelResponse> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = httparse::ParserConfig::default()
        .allow_obsolete_multiline_headers_in_responses(true)
        .parse_response(&mut head, bytes)
        .map_err(|_| invalid("the proxy's response is not HTTP"))?;
    Ok(match (parsed, head.code.unwrap_or_default()) {
        (httparse::Status::Partial, _) => TunnelResponse::Partial,
        // A 101 would be another protocol.
        (httparse::Status::Complete(length), 100 | 102..=199) => TunnelResponse::Interim(length),
        (httparse::Status::Complete(length), 200..=299) => TunnelResponse::Open { length },
        (httparse::Status::Complete(_), status) => TunnelResponse::Rejected { status },
    })
}

fn invalid(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;
    use tokio::io::duplex;

    use super::*;

    /// The request that the proxy receives, and the result when the proxy answers with `response`.
    async fn tunnel(response: &str) -> (String, Result<(), String>) {
        let (mut near, mut far) = duplex(64 * 1024);
        let proxy = Proxy {
            host: Host::Domain("proxy.test".into()),
            port: 3128,
            secure: false,
            authorization: Some(SecretString::from("Basic bWU6")),
        };
        far.write_all(response.as_bytes()).await.unwrap();
        far.shutdown().await.unwrap();
        let host = Host::Domain("platform.test".into());
        let opened = open_tunnel(&mut near, &proxy, &host, 443).await;
        drop(near);
        let mut request = String::new();
        far.read_to_string(&mut request).await.unwrap();
        (request, opened.map_err(|error| error.to_string()))
    }

    #[actix_rt::test]
    async fn a_tunnel_is_requested_by_the_platforms_name_with_the_proxys_credentials() {
        let (request, opened) = tunnel("HTTP/1.1 200 OK\r\n\r\n").await;
        assert_eq!(opened, Ok(()));
        assert_eq!(
            request,
            "CONNECT platform.test:443 HTTP/1.1\r\nHost: platform.test:443\r\nProxy-Authorization: Basic bWU6\r\n\r\n"
        );
    }

    #[actix_rt::test]
    async fn an_interim_response_does_not_decide_about_the_tunnel() {
        let (_, opened) = tunnel("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n").await;
        assert_eq!(opened, Ok(()));
    }

    #[actix_rt::test]
    async fn a_tunnel_fails_unless_the_proxy_answers_with_a_2xx_alone() {
        for (response, expected) in [
            ("HTTP/1.1 407 No\r\n\r\n", "the proxy answered 407"),
            ("HTTP/1.1 101 No\r\n\r\n", "the proxy answered 101"),
            ("HTTP/1.1 200 OK\r\n\r\nx", "the proxy sent data after its response"),
            ("SSH-2.0\r\n", "the proxy's response is not HTTP"),
            ("HTTP/1.1 200 OK\r\n", "the proxy closed the connection"),
            ("", "the proxy closed the connection"),
        ] {
            assert_eq!(tunnel(response).await.1, Err(expected.into()), "{response:?}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\nx: {}", "x".repeat(HEAD_LIMIT));
        assert_eq!(
            tunnel(&endless).await.1,
            Err("the head of the proxy's response is too long".into())
        );
    }
}
