//! `CreateToken`, `RevokeToken`: permissions to join, each for one node and for a while.

use std::sync::Arc;

use super::{Context, Result};
use crate::command::{CreateToken, RevokeToken};
use crate::member::JoinToken;
use crate::reply::{Outcome, Rejection};
use crate::rows::{self, tag};
use crate::state::State;

/// Tokens that are neither used, revoked nor expired, at most.
pub(crate) const MAX_TOKENS: usize = 256;

impl State {
    pub(crate) fn create_token(&mut self, create: &CreateToken, context: &mut Context) -> Result {
        let is_word = |id: &str| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric());
        if !is_word(&create.id) {
            return Err(Rejection::Invalid("a token's id is one word".into()));
        }
        if self.tokens.contains_key(&create.id) {
            let why = "exists already".into();
            let id = create.id.clone();
            return Err(Rejection::TokenRefused { id, why });
        }
        self.drop_expired_tokens(context);
        if self.tokens.len() >= MAX_TOKENS {
            return Err(Rejection::LimitReached(format!(
                "{MAX_TOKENS} join tokens are open; revoke some"
            )));
        }
        let token = Arc::new(JoinToken {
            id: create.id.clone(),
            secret_hash: create.secret_hash.clone(),
            voter: create.voter,
            expires_log_ms: context.log_ms.saturating_add(create.ttl_ms),
        });
        context.row(rows::put(rows::key(tag::TOKEN, &[&create.id]), &token));
        self.tokens.insert(create.id.clone(), token);
        Ok(Outcome::Done)
    }

    /// Repeating it is no failure: what is wanted is that it is gone.
    pub(crate) fn revoke_token(&mut self, revoke: &RevokeToken, context: &mut Context) -> Result {
        self.drop_token(&revoke.id, context);
        Ok(Outcome::Done)
    }

    /// Checks what was shown against what is stored; the token is not consumed yet.
    pub(super) fn check_token(
        &self,
        id: &str,
        secret_hash: &str,
        log_ms: u64,
    ) -> Result<Arc<JoinToken>> {
        let refused = |why: &str| Rejection::TokenRefused {
            id: id.into(),
            why: why.into(),
        };
        // One text for what is unknown, used or wrong: it is no oracle.
        let unknown =
            || refused("is not known, was used, or its secret is wrong; create a new one");
        let token = self.tokens.get(id).ok_or_else(unknown)?;
        if token.secret_hash != secret_hash {
            return Err(unknown());
        }
        if token.expires_log_ms < log_ms {
            return Err(refused("has expired; create a new one"));
        }
        Ok(token.clone())
    }

    pub(super) fn drop_token(&mut self, id: &str, context: &mut Context) {
        if self.tokens.remove(id).is_some() {
            context.row(rows::delete(rows::key(tag::TOKEN, &[id])));
        }
    }

    fn drop_expired_tokens(&mut self, context: &mut Context) {
        let expired: Vec<_> = self
            .tokens
            .values()
            .filter(|token| token.expires_log_ms < context.log_ms)
            .map(|token| token.id.clone())
            .collect();
        for id in expired {
            self.drop_token(&id, context);
        }
    }
}
