//! Asks Kata's Rust crate for direct volumes, one JSON object a line.

use std::io::{self, BufRead, Write};

use base64::Engine;
use kata_types::mount;
use serde_json::{json, Value};

fn ask(question: &Value) -> Result<Value, String> {
    let text = |key: &str| question[key].as_str().unwrap_or_default().to_string();
    let path = text("path");
    match text("do").as_str() {
        // kata-ctl's `add`: what it was given is parsed, and written anew.
        "add" => {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(text("text"))
                .map_err(|e| e.to_string())?;
            let words = String::from_utf8(bytes).map_err(|e| e.to_string())?;
            let record = serde_json::from_str::<mount::DirectVolumeMountInfo>(&words)
                .map_err(|e| e.to_string())?;
            mount::add_volume_mount_info(&path, &record).map_err(|e| format!("{e:#}"))?;
            Ok(json!({}))
        }
        "read" => {
            let record = mount::get_volume_mount_info(&path).map_err(|e| format!("{e:#}"))?;
            Ok(json!({ "record": record }))
        }
        "mounted" => Ok(json!({ "mounted": mount::is_volume_mounted(&path) })),
        other => Err(format!("nothing is known of {other:?}")),
    }
}

fn main() {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let question: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let answer = match ask(&question) {
            Ok(mut answer) => {
                answer["ok"] = json!(true);
                answer
            }
            Err(error) => json!({ "ok": false, "error": error }),
        };
        writeln!(out, "{answer}").unwrap();
    }
}
