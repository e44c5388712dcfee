// Calls one unary method with a fixed number of calls in flight and says how long each took.
//
// The plan is one line of JSON on standard input. After the warm-up it writes "ready" and waits for another line, so that whoever
// reads processor times can do so with the connections open and nothing running; then it measures, writes one line of JSON, and
// stays until its standard input ends, so that its own processor time can be read as well.
// Messages are sent and received as bytes: a client that decodes fifty rows costs more than the server that sends them.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	callTimeout = 30 * time.Second
	// How long a server may refuse the warm-up, and what is left to it between two.
	patience = 5 * time.Second
	settling = 500 * time.Millisecond
)

// plan is what is measured. Calls are spread over the connections in turn, and each connection takes its requests in turn.
type plan struct {
	Target        string       `json:"target"`
	ServerName    string       `json:"server_name"`
	RootPEM       string       `json:"root_pem"`
	Method        string       `json:"method"`
	InFlight      int          `json:"in_flight"`
	WarmUpSeconds float64      `json:"warm_up_seconds"`
	Seconds       float64      `json:"seconds"`
	Connections   []connection `json:"connections"`
}

// connection is one TLS connection. Without a certificate it presents none; requests are serialized messages.
type connection struct {
	CertificatePEM string   `json:"certificate_pem"`
	KeyPEM         string   `json:"key_pem"`
	Authorization  string   `json:"authorization"`
	Requests       [][]byte `json:"requests"`
}

// result has latencies in microseconds and, for whatever failed, how often and why.
// Refused counts streams that the server refused unseen and that were sent again; their latency counts from the first attempt.
type result struct {
	Calls     int            `json:"calls"`
	Seconds   float64        `json:"seconds"`
	P50       float64        `json:"p50_us"`
	P90       float64        `json:"p90_us"`
	P99       float64        `json:"p99_us"`
	Max       float64        `json:"max_us"`
	BytesEach float64        `json:"bytes_each"`
	Refused   int            `json:"refused"`
	Failures  map[string]int `json:"failures"`
}

// raw leaves messages as they are.
type raw struct{}

func (raw) Name() string { return "proto" }

func (raw) Marshal(message any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(*message.(*[]byte))}, nil
}

func (raw) Unmarshal(data mem.BufferSlice, message any) error {
	*message.(*[]byte) = data.Materialize()
	return nil
}

// caller is one connection in use.
type caller struct {
	channel  *grpc.ClientConn
	method   string
	headers  metadata.MD
	requests [][]byte
	next     atomic.Uint64
}

func dial(p plan, c connection) (*caller, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(p.RootPEM)) {
		return nil, fmt.Errorf("root_pem holds no certificate")
	}
	config := &tls.Config{RootCAs: roots, ServerName: p.ServerName, MinVersion: tls.VersionTLS13}
	if c.CertificatePEM != "" {
		pair, err := tls.X509KeyPair([]byte(c.CertificatePEM), []byte(c.KeyPEM))
		if err != nil {
			return nil, err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	channel, err := grpc.NewClient("passthrough:///"+p.Target, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		return nil, err
	}
	headers := metadata.MD{}
	if c.Authorization != "" {
		headers.Set("authorization", c.Authorization)
	}
	return &caller{channel: channel, method: p.Method, headers: headers, requests: c.Requests}, nil
}

// call sends one request, and once more for each time that the server refuses its stream: it has not looked at such a call
// (RFC 9113, 8.7), and refuses some when one connection keeps many of them. The library itself sends again only once.
func (c *caller) call() (size, refused int, err error) {
	for {
		size, err = c.callOnce()
		if status.Code(err) != codes.Unavailable || !strings.Contains(status.Convert(err).Message(), "REFUSED_STREAM") {
			return size, refused, err
		}
		refused++
	}
}

func (c *caller) callOnce() (int, error) {
	ctx, cancel := context.WithTimeout(metadata.NewOutgoingContext(context.Background(), c.headers), callTimeout)
	defer cancel()
	request := c.requests[c.next.Add(1)%uint64(len(c.requests))]
	var answer []byte
	err := c.channel.Invoke(ctx, c.method, &request, &answer, grpc.ForceCodecV2(raw{}))
	return len(answer), err
}

// run keeps so many calls in flight until the time is over, and waits for the last of them.
func run(callers []*caller, inFlight int, duration time.Duration) result {
	var (
		group     sync.WaitGroup
		lock      sync.Mutex
		latencies []float64
		bytes     int
		refusals  int
		failures  = map[string]int{}
	)
	began := time.Now()
	ends := began.Add(duration)
	for worker := range inFlight {
		group.Go(func() {
			own := callers[worker%len(callers)]
			var took []float64
			received, refused, failed := 0, 0, map[string]int{}
			for {
				start := time.Now()
				if start.After(ends) {
					break
				}
				size, again, err := own.call()
				refused += again
				if err != nil {
					failed[status.Code(err).String()+": "+status.Convert(err).Message()]++
					continue
				}
				took = append(took, float64(time.Since(start).Nanoseconds())/1000)
				received += size
			}
			lock.Lock()
			defer lock.Unlock()
			latencies = append(latencies, took...)
			bytes += received
			refusals += refused
			for why, count := range failed {
				failures[why] += count
			}
		})
	}
	group.Wait()
	slices.Sort(latencies)
	at := func(share float64) float64 {
		if len(latencies) == 0 {
			return 0
		}
		return latencies[min(int(share*float64(len(latencies))), len(latencies)-1)]
	}
	return result{
		Calls:     len(latencies),
		Seconds:   time.Since(began).Seconds(),
		P50:       at(0.5),
		P90:       at(0.9),
		P99:       at(0.99),
		Max:       at(1),
		BytesEach: float64(bytes) / float64(max(len(latencies), 1)),
		Refused:   refusals,
		Failures:  failures,
	}
}

func measure() error {
	input := bufio.NewReaderSize(os.Stdin, 1<<20)
	line, err := input.ReadBytes('\n')
	if err != nil {
		return err
	}
	var p plan
	if err := json.Unmarshal(line, &p); err != nil {
		return err
	}
	var callers []*caller
	for _, each := range p.Connections {
		opened, err := dial(p, each)
		if err != nil {
			return err
		}
		defer opened.channel.Close()
		callers = append(callers, opened)
	}
	seconds := func(amount float64) time.Duration { return time.Duration(amount * float64(time.Second)) }
	// A gateway that stood still a moment ago may have to connect again first.
	for begun := time.Now(); ; time.Sleep(settling) {
		warmedUp := run(callers, p.InFlight, seconds(p.WarmUpSeconds))
		if warmedUp.Calls > 0 && len(warmedUp.Failures) == 0 {
			break
		}
		if time.Since(begun) > patience {
			return fmt.Errorf("the warm-up failed: %v", warmedUp.Failures)
		}
	}
	fmt.Println("ready")
	if _, err := input.ReadBytes('\n'); err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(run(callers, p.InFlight, seconds(p.Seconds))); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, input)
	return err
}

func main() {
	// It shares its core with the database of what it measures, and what it throws away is small.
	debug.SetGCPercent(1000)
	if err := measure(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
