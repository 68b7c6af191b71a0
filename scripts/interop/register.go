// Makes a log known to litewitness: what `witnessctl add-log` and `add-key` do. Those come with a module that not
// every proxy has. Run by scripts/interop.sh while litewitness runs.
//
//	register DATABASE VKEY_FILE
package main

import (
	"crypto/sha256"
	"encoding/base64"
	"log"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"zombiezen.com/go/sqlite"
	"zombiezen.com/go/sqlite/sqlitex"
)

func main() {
	vkey, err := os.ReadFile(os.Args[2])
	check("read the log's key", err)
	verifier, err := note.NewVerifier(strings.TrimSpace(string(vkey)))
	check("parse the log's key", err)
	db, err := sqlite.OpenConn(os.Args[1], sqlite.OpenReadWrite)
	check("open the database", err)
	empty := sha256.Sum256(nil)
	insert := func(statement string, values ...any) {
		check(statement, sqlitex.Execute(db, statement, &sqlitex.ExecOptions{Args: values}))
	}
	insert("INSERT INTO log (origin, tree_size, tree_hash) VALUES (?, 0, ?)",
		verifier.Name(), base64.StdEncoding.EncodeToString(empty[:]))
	insert("INSERT INTO key (origin, key) VALUES (?, ?)", verifier.Name(), strings.TrimSpace(string(vkey)))
	check("close the database", db.Close())
}

func check(what string, err error) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}
