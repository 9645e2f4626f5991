package signature_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/hookferry/hookferry/deliverer/signature"
)

// A receiver reads the body whole, verifies it as it came, and only then parses it.
func ExampleVerify() {
	secret, err := signature.ParseSecret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	if err != nil {
		panic(err)
	}
	receive := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 2<<20))
		if err != nil {
			http.Error(w, "body", http.StatusRequestEntityTooLarge)
			return
		}
		if err := signature.Verify([][]byte{secret}, r.Header, body, time.Now(), signature.DefaultTolerance); err != nil {
			http.Error(w, "signature", http.StatusUnauthorized)
			return
		}
		fmt.Println("verified", string(body))
		w.WriteHeader(http.StatusNoContent)
	}

	body, now := `{"type":"booking.creation"}`, time.Now().Unix()
	r := httptest.NewRequest("POST", "/hook", strings.NewReader(body))
	r.Header.Set("webhook-id", "msg_1")
	r.Header.Set("webhook-timestamp", fmt.Sprint(now))
	r.Header.Set("webhook-signature", signature.Sign(secret, "msg_1", now, []byte(body)))
	w := httptest.NewRecorder()
	receive(w, r)
	fmt.Println(w.Code)
	// Output:
	// verified {"type":"booking.creation"}
	// 204
}
