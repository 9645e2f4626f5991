// Package signature signs webhooks and verifies them, after Standard Webhooks 1.0.0, scheme v1 (HMAC-SHA-256).
//
// What is signed is the text
//
//	webhook-id "." webhook-timestamp "." body
//
// with the body's exact bytes. A request carries one signature for each live secret, newest first, so that a receiver that holds any one of them
// goes on verifying while secrets are rotated.
//
// A receiver needs two functions: ParseSecret once, Verify for every request. See the example. The package imports nothing of ours and may be used
// alone.
package signature
