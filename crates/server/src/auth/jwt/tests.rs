mod real_etcd;

use std::path::{Path, PathBuf};

use super::*;

/// Key files that OpenSSL has written, in all forms that etcd reads.
pub(super) const FILES: &[(&str, &str)] = &[
    ("rsa.pem", include_str!("../../../testdata/jwt/rsa.pem")),
    ("rsa1.pem", include_str!("../../../testdata/jwt/rsa1.pem")),
    ("rsa.pub", include_str!("../../../testdata/jwt/rsa.pub")),
    ("rsa1.pub", include_str!("../../../testdata/jwt/rsa1.pub")),
    ("rsa.crt", include_str!("../../../testdata/jwt/rsa.crt")),
    ("other.pub", include_str!("../../../testdata/jwt/other.pub")),
    ("small.pem", include_str!("../../../testdata/jwt/small.pem")),
    ("ec256.pem", include_str!("../../../testdata/jwt/ec256.pem")),
    ("ec256.p8", include_str!("../../../testdata/jwt/ec256.p8")),
    ("ec256.pub", include_str!("../../../testdata/jwt/ec256.pub")),
    ("ec256.crt", include_str!("../../../testdata/jwt/ec256.crt")),
    ("ec384.pem", include_str!("../../../testdata/jwt/ec384.pem")),
    ("ec384.pub", include_str!("../../../testdata/jwt/ec384.pub")),
    ("ec521.pem", include_str!("../../../testdata/jwt/ec521.pem")),
    ("ed.pem", include_str!("../../../testdata/jwt/ed.pem")),
    ("ed.pub", include_str!("../../../testdata/jwt/ed.pub")),
    ("hs.key", include_str!("../../../testdata/jwt/hs.key")),
];

/// Tokens that etcd 3.7.3 gave to root at revision 4, with the method and the key file of each.
const TOKENS: &str = include_str!("../../../testdata/jwt/tokens.txt");

/// The time at which the tokens above were signed, roughly.
const RECORDED_S: u64 = 1_796_028_000;

pub(super) fn file(name: &str) -> &'static str {
    FILES.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no file {name}")).1
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/jwt").join(name)
}

/// A signer and verifier with options in which `@name` is the path of a key file.
fn jwt(options: &str) -> Result<Jwt, JwtError> {
    Jwt::new(&options.replace('@', &path("").display().to_string()))
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn recorded() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    TOKENS.lines().map(|line| {
        let mut words = line.split(' ');
        (words.next().unwrap(), words.next().unwrap(), words.next().unwrap())
    })
}

/// The claims of a token with another text in their place, signed with the shared secret.
fn with_claims(claims: &str) -> String {
    signed(r#"{"alg":"HS256","typ":"JWT"}"#, claims)
}

fn signed(header: &str, claims: &str) -> String {
    let text = format!("{}.{}", encode(header.as_bytes()), encode(claims.as_bytes()));
    let key = Key::read("HS256", None, Some(("hs.key", file("hs.key").as_bytes()))).unwrap();
    let signature = key.sign(text.as_bytes()).unwrap().unwrap();
    format!("{text}.{}", encode(&signature))
}

#[test]
fn tokens_of_etcd_are_valid_here_with_every_method() {
    let root = Some(("root".to_owned(), 4));
    let mut methods = Vec::new();
    for (method, key, token) in recorded() {
        let jwt = jwt(&format!("sign-method={method},priv-key=@{key}")).unwrap();
        assert_eq!(jwt.verify(token, at(RECORDED_S)), root, "{method}");
        assert_eq!(jwt.verify(token, at(RECORDED_S)), root, "{method}, remembered");
        let (text, signature) = token.rsplit_once('.').unwrap();
        let forged = text.replace("eyJ", "eyI");
        assert_eq!(jwt.verify(&format!("{forged}.{signature}"), at(RECORDED_S)), None);
        let mut damaged = decode(signature).unwrap();
        damaged[7] ^= 1;
        assert_eq!(jwt.verify(&format!("{text}.{}", encode(&damaged)), at(RECORDED_S)), None, "{method}");
        methods.push(method);
    }
    let known = "RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA HS256 HS384 HS512";
    assert_eq!(methods.join(" "), known);
}

#[test]
fn a_token_has_the_text_of_etcds() {
    for (method, key, token) in recorded() {
        let jwt = jwt(&format!("sign-method={method},priv-key=@{key},ttl=2h")).unwrap();
        let own = jwt.sign("root", 4, at(RECORDED_S)).unwrap();
        assert_eq!(own.split('.').next(), token.split('.').next(), "{method}: header");
        let claims = |token: &str| String::from_utf8(decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap();
        assert_eq!(claims(&own), format!(r#"{{"exp":{},"revision":4,"username":"root"}}"#, RECORDED_S + 7200));
        assert!(claims(token).ends_with(r#","revision":4,"username":"root"}"#), "{}", claims(token));
        assert_eq!(jwt.verify(&own, at(RECORDED_S)), Some(("root".to_owned(), 4)), "{method}");
    }
}

#[test]
fn keys_come_in_all_forms_that_etcd_reads() {
    let token = |method: &str| recorded().find(|(known, ..)| *known == method).unwrap().2;
    for (method, options) in [
        ("RS256", "priv-key=@rsa1.pem"),
        ("RS256", "priv-key=@rsa1.pem,pub-key=@rsa.crt"),
        ("RS256", "priv-key=@rsa.pem,pub-key=@rsa1.pub"),
        ("PS512", "pub-key=@rsa.pub"),
        ("RS256", "pub-key=@rsa1.pub"),
        ("RS256", "pub-key=@rsa.crt"),
        ("ES256", "priv-key=@ec256.p8,pub-key=@ec256.pub"),
        ("ES256", "pub-key=@ec256.crt"),
        ("ES256", "pub-key=@ec256.pub"),
        ("ES384", "priv-key=@ec384.pem,pub-key=@ec384.pub"),
        ("EdDSA", "priv-key=@ed.pem,pub-key=@ed.pub"),
        ("EdDSA", "pub-key=@ed.pub"),
    ] {
        let jwt = jwt(&format!("{options},sign-method={method}")).unwrap_or_else(|error| panic!("{options}: {error}"));
        assert_eq!(jwt.verify(token(method), at(RECORDED_S)), Some(("root".to_owned(), 4)), "{options}");
        match (jwt.sign("alice", 7, at(RECORDED_S)), options.contains("priv-key")) {
            (Ok(own), true) => assert_eq!(jwt.verify(&own, at(RECORDED_S)), Some(("alice".to_owned(), 7))),
            (Err(error), false) => {
                assert_eq!(error.to_string(), "auth: token signing attempted with verify-only key");
            }
            other => panic!("{options}: {other:?}"),
        }
    }
}

#[test]
fn errors_have_the_texts_of_etcd_and_name_the_file() {
    let testdata = path("").display().to_string();
    for (options, text) in [
        ("", "auth: invalid auth signature method"),
        ("priv-key=@rsa.pem", "auth: invalid auth signature method"),
        ("sign-method=rs256,priv-key=@rsa.pem", "auth: invalid auth signature method"),
        ("sign-method=none,priv-key=@hs.key", "unsupported signing method: none"),
        ("sign-method=RS256,priv-key=/nope", "open /nope: no such file or directory"),
        ("sign-method=RS256,priv-key=@rsa.pem,ttl=zz", "time: invalid duration \"zz\""),
        ("sign-method=RS256,priv-key=@rsa.pem,ttl=300", "time: missing unit in duration \"300\""),
        ("sign-method=RS256,priv-key=@rsa.pem,foo", "invalid token option: \"foo\" is not one name=value"),
        ("sign-method=RS256,sign-method=RS256", "invalid token option: sign-method is given twice"),
        ("sign-method=RS256,ttl=1h", "auth: missing key data"),
        ("sign-method=HS256,pub-key=@rsa.pub", "auth: missing key data"),
        (
            "sign-method=RS256,priv-key=@rsa.pem,pub-key=@other.pub",
            "auth: public and private keys don't match: @other.pub",
        ),
        ("sign-method=RS256,priv-key=@hs.key", "invalid key: Key must be a PEM encoded PKCS1 or PKCS8 key: @hs.key"),
        ("sign-method=RS256,priv-key=@ec256.pem", "key is not a valid RSA private key: @ec256.pem"),
        ("sign-method=PS256,pub-key=@ec256.pub", "key is not a valid RSA public key: @ec256.pub"),
        ("sign-method=ES256,pub-key=@rsa.pub", "key is not a valid ECDSA public key: @rsa.pub"),
        ("sign-method=EdDSA,priv-key=@rsa.pem", "key is not a valid Ed25519 private key: @rsa.pem"),
        ("sign-method=ES256,priv-key=@ec384.pem", "key is invalid: its curve is not that of ES256: @ec384.pem"),
        ("sign-method=ES384,pub-key=@ec256.pub", "key is invalid: its curve is not that of ES384: @ec256.pub"),
        (
            "sign-method=RS256,priv-key=@small.pem",
            "RSA keys of 1024 bits are not supported; use 2048 to 8192: @small.pem",
        ),
    ] {
        assert_eq!(jwt(options).unwrap_err().to_string(), text.replace('@', &testdata), "{options}");
    }
    jwt("sign-method=RS256,priv-key=@rsa.pem,foo=bar").expect("an unknown option is only warned about");
}

#[test]
fn the_method_of_a_token_is_not_its_own_choice() {
    let verifier = jwt("sign-method=RS256,pub-key=@rsa.pub").unwrap();
    let claims = encode(br#"{"revision":4,"username":"root"}"#);
    // The public key, which everybody knows, as the secret of another method.
    for secret in [file("rsa.pub").as_bytes(), &der::first_block(file("rsa.pub").as_bytes()).unwrap()] {
        let key = Key::read("HS256", None, Some(("x", secret))).unwrap();
        let text = format!("{}.{claims}", encode(br#"{"alg":"HS256"}"#));
        let token = format!("{text}.{}", encode(&key.sign(text.as_bytes()).unwrap().unwrap()));
        assert_eq!(verifier.verify(&token, at(RECORDED_S)), None);
    }
    for header in [r#"{"alg":"none"}"#, "{}", "[]", r#"{"alg":1}"#] {
        assert_eq!(verifier.verify(&format!("{}.{claims}.", encode(header.as_bytes())), at(RECORDED_S)), None);
    }
    // The same key, and a signature that is valid for another method.
    for (method, _, token) in recorded().filter(|(method, ..)| *method != "RS256") {
        assert_eq!(verifier.verify(token, at(RECORDED_S)), None, "{method}");
    }
    // A signature that is valid for the method of the verifier, under the name of another one.
    let verifier = jwt("sign-method=HS256,priv-key=@hs.key").unwrap();
    let claims = r#"{"revision":4,"username":"root"}"#;
    for (method, valid) in [("HS256", true), ("HS512", false), ("none", false)] {
        let token = signed(&format!(r#"{{"alg":"{method}"}}"#), claims);
        assert_eq!(verifier.verify(&token, at(RECORDED_S)).is_some(), valid, "{method}");
    }
}

#[test]
fn times_are_checked_if_they_are_there_and_without_leeway() {
    let jwt = jwt("sign-method=HS256,priv-key=@hs.key").unwrap();
    let valid = |claims: &str, now: u64| {
        let token = with_claims(&format!(r#"{{"username":"u","revision":3{claims}}}"#));
        let first = jwt.verify(&token, at(now));
        assert_eq!(first, jwt.verify(&token, at(now)), "remembered: {claims}");
        first.is_some()
    };
    assert!(valid("", 0) && valid("", u64::from(u32::MAX)), "no times, no end");
    assert!(valid(r#","exp":1000"#, 999) && !valid(r#","exp":1000"#, 1000));
    assert!(valid(r#","exp":1000.9"#, 999) && !valid(r#","exp":1000.9"#, 1000), "whole seconds");
    assert!(valid(r#","exp":0"#, 1000), "0 is no time");
    assert!(!valid(r#","nbf":1000"#, 999) && valid(r#","nbf":1000"#, 1000));
    assert!(!valid(r#","exp":"1000""#, 1) && !valid(r#","exp":null"#, 1) && !valid(r#","nbf":[]"#, 1));
    assert!(valid(r#","iat":5000,"aud":"x","iss":"y""#, 1), "other claims are not looked at");
}

#[test]
fn claims_that_say_no_user_or_revision_are_refused() {
    let jwt = jwt("sign-method=HS256,priv-key=@hs.key").unwrap();
    let verify = |claims: &str| jwt.verify(&with_claims(claims), at(0));
    assert_eq!(verify(r#"{"username":"","revision":2.9}"#), Some((String::new(), 2)));
    assert_eq!(verify(r#"{"username":"ü\"","revision":1}"#), Some(("ü\"".to_owned(), 1)));
    for claims in ["", "null", "[]", "{}", r#"{"username":"u"}"#, r#"{"username":1,"revision":1}"#] {
        assert_eq!(verify(claims), None, "{claims}");
    }
    assert_eq!(verify(r#"{"username":"u","revision":"1"}"#), None);
    let good = with_claims(r#"{"username":"u","revision":1}"#);
    for token in ["", ".", "..", "...", "a.b.c", &format!("{good}."), &format!("{good}="), &good[..good.len() - 4]] {
        assert_eq!(jwt.verify(token, at(0)), None, "{token}");
    }
    let long = with_claims(&format!(r#"{{"username":"{}","revision":1}}"#, "u".repeat(MAX_TOKEN_BYTES)));
    assert_eq!(jwt.verify(&long, at(0)), None);
}

#[test]
fn a_name_of_a_user_is_escaped() {
    let jwt = jwt("sign-method=HS256,priv-key=@hs.key").unwrap();
    for name in ["\"},{\"", "ü\n\\", ""] {
        let token = jwt.sign(name, u64::MAX >> 12, at(5)).unwrap();
        assert_eq!(jwt.verify(&token, at(5)), Some((name.to_owned(), u64::MAX >> 12)));
    }
}

#[test]
fn few_tokens_are_remembered_and_a_remembered_one_still_ends() {
    let jwt = jwt("sign-method=HS256,priv-key=@hs.key,ttl=10s").unwrap();
    let used = jwt.sign("often", 1, at(0)).unwrap();
    for number in 0..3 * recent::TOKENS as u64 {
        assert!(jwt.verify(&used, at(9)).is_some());
        assert!(jwt.verify(&jwt.sign("once", number, at(0)).unwrap(), at(0)).is_some());
        assert!(jwt.recent.lock().len() <= 2 * recent::TOKENS);
    }
    assert!(jwt.recent.lock().get(&used).is_some(), "a token in use stays");
    assert_eq!(jwt.verify(&used, at(10)), None);
    let long = jwt.sign(&"u".repeat(recent::TOKEN_BYTES), 1, at(0)).unwrap();
    let before = jwt.recent.lock().len();
    assert!(jwt.verify(&long, at(0)).is_some());
    assert_eq!(jwt.recent.lock().len(), before, "a long token is not kept");
    assert_eq!(jwt.verify("a.b.c", at(0)), None);
    assert_eq!(jwt.recent.lock().len(), before, "nor is an invalid one");
    let text = format!("{jwt:?}");
    assert!(!text.contains(used.split_once('.').unwrap().1) && !text.contains("kkkk"), "{text}");
}

/// Prints the time of a verification; `cargo test --release -- --ignored --nocapture time_of`.
#[test]
#[ignore = "measures"]
fn time_of_a_verification() {
    for (method, key, token) in recorded() {
        let jwt = jwt(&format!("sign-method={method},priv-key=@{key}")).unwrap();
        let begin = std::time::Instant::now();
        (0..1000).for_each(|_| drop(jwt.read(token).unwrap()));
        let read = begin.elapsed() / 1000;
        let begin = std::time::Instant::now();
        (0..1000).for_each(|_| drop(jwt.verify(token, at(RECORDED_S)).unwrap()));
        println!("{method}: {read:?}, remembered {:?}", begin.elapsed() / 1000);
    }
}
