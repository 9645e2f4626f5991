// Command mutants shows that the tests would notice. Each *.patch beside it is a bug that this field has shipped or could, and names the test that
// must go red with it; a test that stays green guards nothing. Run it from anywhere in the module:
//
//	go run ./bench/mutants                 all of them, and one table; exit 1 unless every mutant is red
//	go run ./bench/mutants -only lease     those whose name contains it (several with commas)
//	go run ./bench/mutants -v              with what the red tests said
//
// The tree is never touched: a mutant's files are patched copies in a directory of their own, and `go test -c -overlay` builds the test binary with
// them in place of the real ones, so that all other packages come out of the build cache. Every named test also runs once without a patch, and must
// be green: red beside red says nothing.
//
//	patch.go   a mutant's file: header, unified diff, and how it is applied
//	runner.go  building and running, and what counts as red
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// inParallel is how many mutants are built and run at a time: on two cores a third only makes the first two slower, and tests with deadlines flaky.
const inParallel = 2

func main() {
	only := flag.String("only", "", "run the mutants whose name contains one of these, separated by commas")
	verbose := flag.Bool("v", false, "print what each test said")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ok, err := run(ctx, *only, *verbose, os.Stdout)
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context, only string, verbose bool, out io.Writer) (ok bool, err error) {
	root, err := moduleRoot()
	if err != nil {
		return false, err
	}
	mutants, err := load(root)
	if err != nil {
		return false, err
	}
	if mutants = choose(mutants, only); len(mutants) == 0 {
		return false, fmt.Errorf("no mutant's name contains %q", only)
	}
	dir, err := os.MkdirTemp("", "mutants-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	begun := time.Now()
	r := &runner{root: root, dir: dir, verbose: verbose, out: out}
	greens := r.greens(ctx, mutants)
	results := make([]result, len(mutants))
	each(len(mutants), func(i int) {
		m := mutants[i]
		if say := greens[m.key()]; say != "" {
			results[i] = result{verdict: broken, why: "without the mutant: " + say}
		} else {
			results[i] = r.mutant(ctx, m)
		}
		r.say("%-34s %s (%.1f s) %s\n", m.name, results[i].verdict, results[i].took.Seconds(), results[i].why)
	})
	return table(out, mutants, results, time.Since(begun)), ctx.Err()
}

func choose(all []*mutant, only string) (out []*mutant) {
	for _, m := range all {
		if slices.ContainsFunc(strings.Split(only, ","), func(part string) bool { return strings.Contains(m.name, strings.TrimSpace(part)) }) {
			out = append(out, m)
		}
	}
	return out
}

// each calls f for 0 to n-1, inParallel of them at a time, and returns when all have ended.
func each(n int, f func(i int)) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range inParallel {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

// table prints what came of all mutants and says whether all are red.
func table(out io.Writer, mutants []*mutant, results []result, took time.Duration) bool {
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "\nMUTANT\tPACKAGE\tTEST THAT MUST GO RED\t\tSECONDS")
	reds := 0
	for i, m := range mutants {
		if results[i].verdict == red {
			reds++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%.1f\n", m.name, m.pkg, m.test, cmp.Or(results[i].verdict, broken), results[i].took.Seconds())
	}
	w.Flush()
	fmt.Fprintf(out, "\n%d of %d red, in %v\n", reds, len(mutants), took.Round(time.Second))
	return reds == len(mutants)
}
