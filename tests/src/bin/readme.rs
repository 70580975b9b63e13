//! The Rust example of README.md, compiled as it stands there. The address of a test's server replaces the default.

use etcd_client::{Client, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:2379".to_owned());
    let mut client = Client::connect([address], None).await?;
    client.put("greeting", "hello", None).await?;
    let answer = client.get("greeting", None).await?;
    let revision = answer.header().map_or(0, |header| header.revision());
    for pair in answer.kvs() {
        println!("{} at revision {revision}", pair.value_str()?);
    }
    Ok(())
}
