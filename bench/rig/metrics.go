package rig

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Metric asks a service for the sum of all series of one name, whatever their labels. A service that does not answer is an error; a name that
// it does not know is 0.
func (d *Deployment) Metric(service, name string) (float64, error) {
	client := http.Client{Timeout: 2 * time.Second}
	res, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/metrics", d.port(service)))
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	sum := 0.0
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		rest, ok := strings.CutPrefix(lines.Text(), name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("%s says %q", service, lines.Text())
		}
		sum += v
	}
	return sum, lines.Err()
}
