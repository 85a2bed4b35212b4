//! `--ask`: asks a server in a VM until it answers, then says how long one request takes.
//!
//! What is measured is one request on a new connection, through QEMU's emulation and its user network: a sign of life,
//! not a benchmark.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use crate::progress;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// From one try to the next.
const PAUSE: Duration = Duration::from_millis(500);
/// Most of an answer that is read.
const MOST: u64 = 1 << 20;

/// What the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Http,
    Redis,
}

/// A server: `http://127.0.0.1:8080/` or `redis://127.0.0.1:6379`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    protocol: Protocol,
    address: SocketAddr,
    /// Of the page.
    path: String,
}

impl FromStr for Ask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (scheme, rest) = text.split_once("://")?;
            let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
            let protocol = match scheme {
                "http" => Protocol::Http,
                "redis" if path.is_empty() => Protocol::Redis,
                _ => return None,
            };
            if path.bytes().any(|b| !b.is_ascii_graphic()) {
                return None;
            }
            Some(Self {
                protocol,
                address: authority.to_socket_addrs().ok()?.next()?,
                path: format!("/{path}"),
            })
        };
        parse().ok_or_else(|| {
            "must be http://ADDRESS:PORT/PATH or redis://ADDRESS:PORT, like http://127.0.0.1:8080/"
                .to_owned()
        })
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.protocol {
            Protocol::Http => write!(f, "http://{}{}", self.address, self.path),
            Protocol::Redis => write!(f, "redis://{}", self.address),
        }
    }
}

impl Ask {
    /// One request: the first line of the answer, and its bytes.
    fn request(&self) -> io::Result<(String, usize)> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let request = match self.protocol {
            Protocol::Http => format!(
                "GET {} HTTP/1.0\r\nHost: {}\r\n\r\n",
                self.path, self.address
            ),
            // Ends with QUIT, so that the server hangs up.
            Protocol::Redis => "PING\r\nQUIT\r\n".to_owned(),
        };
        // In one piece: a server that answers to the first of several and hangs up resets the connection.
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(MOST).read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer);
        let first = text.lines().next().unwrap_or_default().to_owned();
        let good = match self.protocol {
            Protocol::Http => first.starts_with("HTTP/1.") && first.contains(" 200"),
            Protocol::Redis => first == "+PONG",
        };
        if good {
            Ok((first, answer.len()))
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    /// Asks until there is a good answer, then once more for the measure.
    fn wait(&self) {
        let start = Instant::now();
        loop {
            // Before the guest listens, QEMU accepts and hangs up.
            if self.request().is_ok() {
                let up = start.elapsed().as_secs();
                let begin = Instant::now();
                if let Ok((line, bytes)) = self.request() {
                    let spent = begin.elapsed().as_millis();
                    progress(format_args!(
                        "{self} answers after {up} s: {line}, {bytes} bytes, one request takes {spent} ms\r"
                    ));
                    return;
                }
            }
            thread::sleep(PAUSE);
        }
    }
}

/// Asks each of `servers`, besides what this process does.
pub(crate) fn begin(servers: &[Ask]) {
    for server in servers {
        let server = server.clone();
        thread::spawn(move || server.wait());
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn servers_have_one_form() {
        let ask = |text: &str| text.parse::<Ask>().map(|ask| ask.to_string());
        for good in [
            "http://127.0.0.1:8080/",
            "http://127.0.0.1:80/a/b?c",
            "redis://127.0.0.1:6379",
        ] {
            assert_eq!(ask(good).as_deref(), Ok(good));
        }
        assert_eq!(
            ask("http://127.0.0.1:80").as_deref(),
            Ok("http://127.0.0.1:80/")
        );
        for bad in [
            "127.0.0.1:80",
            "http://127.0.0.1/",
            "https://127.0.0.1:443/",
            "redis://127.0.0.1:6379/key",
            "http://127.0.0.1:80/a b",
            "",
        ] {
            assert!(ask(bad).is_err(), "{bad}");
        }
    }

    /// One that answers each connection with the next of `answers`.
    fn server(answers: &'static [&'static [u8]]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for (answer, stream) in answers.iter().zip(listener.incoming()) {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 512]);
                let _ = stream.write_all(answer);
            }
        });
        address
    }

    #[test]
    fn only_a_good_answer_counts() {
        let ask = |scheme: &str, answers| {
            let address = server(answers);
            format!("{scheme}://{address}").parse::<Ask>().unwrap()
        };
        let page: &[&[u8]] = &[
            b"",
            b"HTTP/1.1 404 Not Found\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\nx",
        ];
        let page = ask("http", page);
        assert!(page.request().is_err(), "nothing");
        assert!(page.request().is_err(), "not found");
        assert_eq!(page.request().unwrap(), ("HTTP/1.1 200 OK".to_owned(), 20));
        let redis: &[&[u8]] = &[b"-NOAUTH\r\n", b"+PONG\r\n+OK\r\n"];
        let redis = ask("redis", redis);
        assert!(redis.request().is_err(), "refused");
        assert_eq!(redis.request().unwrap().0, "+PONG");
    }
}
