// Follows a log with Tessera's client library: checks that every checkpoint is consistent with the one before, from
// whichever node it came, and inclusion proofs, built from tiles, for the entries in its bundles.
// Run by scripts/interop.sh.
//
//	follow VKEY_FILE STATE_FILE URL...
//
// STATE_FILE keeps the checkpoint that was seen last.
package main

import (
	"context"
	"fmt"
	"log"
	"net/url"
	"os"
	"strings"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/client"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	vkey, err := os.ReadFile(os.Args[1])
	check("read the log's key", err)
	verifier, err := note.NewVerifier(strings.TrimSpace(string(vkey)))
	check("parse the log's key", err)
	for _, address := range os.Args[3:] {
		follow(context.Background(), verifier, os.Args[2], address)
	}
}

func follow(ctx context.Context, verifier note.Verifier, state, address string) {
	root, err := url.Parse(address)
	check("parse "+address, err)
	fetcher, err := client.NewHTTPFetcher(root, nil)
	check("make a client", err)
	seen, err := os.ReadFile(state)
	if err != nil && !os.IsNotExist(err) {
		check("read the state", err)
	}
	tracker, err := client.NewLogStateTracker(ctx, fetcher.ReadTile, seen, verifier, verifier.Name(),
		client.UnilateralConsensus(fetcher.ReadCheckpoint))
	check("follow "+address, err)
	before := tracker.Latest().Size
	_, consistency, newest, err := tracker.Update(ctx)
	check("update from "+address, err)
	check("keep the state", os.WriteFile(state, newest, 0o644))

	checkpoint := tracker.Latest()
	builder, err := client.NewProofBuilder(ctx, checkpoint.Size, fetcher.ReadTile)
	check("make a proof builder", err)
	proved := 0
	for index := uint64(0); index < checkpoint.Size; index += 1 + checkpoint.Size/50 {
		path, err := builder.InclusionProof(ctx, index)
		check("build an inclusion proof", err)
		bundle, err := client.GetEntryBundle(ctx, fetcher.ReadEntryBundle, index/256, checkpoint.Size)
		check("read an entry bundle", err)
		leaf := rfc6962.DefaultHasher.HashLeaf(bundle.Entries[index%256])
		check("verify an inclusion proof",
			proof.VerifyInclusion(rfc6962.DefaultHasher, index, checkpoint.Size, leaf, path, checkpoint.Hash))
		proved++
	}
	fmt.Printf("%s: size %d after %d, a consistency proof of %d hashes and %d inclusion proofs hold\n",
		address, checkpoint.Size, before, len(consistency), proved)
}

func check(what string, err error) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}
