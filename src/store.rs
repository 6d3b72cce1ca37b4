//! The two routes that `npx skillstore` uses, for one package:
//! `GET /skills/SLUG/manifest` (signed) and `GET /skills/SLUG/download`.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::Sha256;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::package::Package;

/// What the store offers: one package, or the reason why there is none.
#[derive(Debug)]
pub struct Store {
    offer: Result<Offer, String>,
}

#[derive(Debug)]
struct Offer {
    slug: String,
    /// The signed manifest, as the client's `JSON.stringify` would write it.
    manifest: String,
    zip: Bytes,
}

impl Store {
    /// Offers `package`, its manifest signed with `key`.
    pub fn new(package: &Package, key: &str) -> Result<Self> {
        let slug = &package.manifest.slug;
        let unsigned = json!({
            "version": "1.0",
            "skill": {
                "slug": slug,
                "name": package.manifest.name,
                "version": package.manifest.version,
                "author": package.manifest.author,
                "zipHash": package.sha256,
            },
            // Relative to the address that the client was given: right behind a forwarded port too.
            "downloadUrl": format!("/api/skills/{slug}/download"),
            "generatedAt": OffsetDateTime::now_utc().format(&Rfc3339)?,
        });
        Ok(Self {
            offer: Ok(Offer {
                slug: slug.clone(),
                manifest: sign(unsigned, key)?,
                zip: Bytes::copy_from_slice(&package.zip),
            }),
        })
    }

    /// A store that has nothing to offer, and says why.
    pub fn closed(reason: impl Into<String>) -> Self {
        Self {
            offer: Err(reason.into()),
        }
    }

    /// The routes, to be nested under `/api`.
    pub fn router(self) -> Router {
        Router::new()
            .route("/skills/{slug}/manifest", get(manifest))
            .route("/skills/{owner}/{name}/manifest", get(manifest_of))
            .route("/skills/{slug}/download", get(download))
            .route("/skills/{owner}/{name}/download", get(download_of))
            .fallback(|| async { problem(StatusCode::NOT_FOUND, "no such route; this store has GET /api/skills/SLUG/manifest and GET /api/skills/SLUG/download") })
            .with_state(Arc::new(self))
    }

    fn find(&self, slug: &str) -> Result<&Offer, Box<Response>> {
        match &self.offer {
            Err(reason) => Err(Box::new(problem(StatusCode::SERVICE_UNAVAILABLE, reason))),
            Ok(offer) if offer.slug == slug => Ok(offer),
            Ok(offer) => Err(Box::new(problem(
                StatusCode::NOT_FOUND,
                &format!("no such skill; this store has {}", offer.slug),
            ))),
        }
    }
}

/// Adds `signature` to `manifest`: the hex HMAC-SHA256 over the compact JSON of all other members,
/// in their order. `serde_json` writes strings and integers as JavaScript's `JSON.stringify` does;
/// floating-point numbers would differ (`1.0`), and a manifest has none.
pub fn sign(mut manifest: Value, key: &str) -> Result<String> {
    let text = serde_json::to_string(&manifest)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes())?;
    mac.update(text.as_bytes());
    let signature = hex::encode(mac.finalize().into_bytes());
    manifest
        .as_object_mut()
        .ok_or_else(|| anyhow!("a manifest is a JSON object"))?
        .insert("signature".to_owned(), signature.into());
    Ok(serde_json::to_string(&manifest)?)
}

fn problem(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

async fn manifest(State(store): State<Arc<Store>>, Path(slug): Path<String>) -> Response {
    match store.find(&slug) {
        Ok(offer) => (
            [(header::CONTENT_TYPE, "application/json")],
            offer.manifest.clone(),
        )
            .into_response(),
        Err(problem) => *problem,
    }
}

async fn download(State(store): State<Arc<Store>>, Path(slug): Path<String>) -> Response {
    match store.find(&slug) {
        Ok(offer) => (
            [(header::CONTENT_TYPE, "application/zip")],
            offer.zip.clone(),
        )
            .into_response(),
        Err(problem) => *problem,
    }
}

/// `owner/name` is the slug `owner-name`, as the client has it.
async fn manifest_of(
    state: State<Arc<Store>>,
    Path((owner, name)): Path<(String, String)>,
) -> Response {
    manifest(state, Path(format!("{owner}-{name}"))).await
}

async fn download_of(
    state: State<Arc<Store>>,
    Path((owner, name)): Path<(String, String)>,
) -> Response {
    download(state, Path(format!("{owner}-{name}"))).await
}
