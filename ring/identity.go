package ring

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/loki-go/loki-go/internal/vfs"
)

// Identity tells the starts of one instance from each other, and an instance
// from another one that was given the same ID.
type Identity struct {
	// Owner is a random name of the data directory. Who has locked that
	// directory knows that an earlier process with the same owner is dead.
	Owner string `json:"owner"`
	// Generation is greater than that of every earlier start, even when the
	// clock was set back. It is about the start's time in Unix milliseconds.
	Generation int64 `json:"generation"`
}

const (
	identityFile = "ring-identity.json"
	ownerBytes   = 16
	maxIdentity  = 4096 // bytes of the file
)

// NewIdentity returns the identity of a start with its data in dir, which the
// caller has locked. It is durable on return. A file that cannot be read as an
// identity is replaced: the instance then waits until the entry of its past
// has expired, instead of taking it over.
func NewIdentity(fsys vfs.FS, dir string) (Identity, error) {
	name := filepath.Join(dir, identityFile)
	old, err := readIdentity(fsys, name)
	if err != nil {
		return Identity{}, fmt.Errorf("ring: read %s: %w", name, err)
	}
	now := Identity{Owner: old.Owner, Generation: max(time.Now().UnixMilli(), old.Generation+1)}
	if now.Owner == "" {
		var b [ownerBytes]byte
		rand.Read(b[:]) // never fails
		now.Owner = hex.EncodeToString(b[:])
	}
	if err := writeIdentity(fsys, name, now); err != nil {
		return Identity{}, fmt.Errorf("ring: write %s: %w", name, err)
	}
	return now, nil
}

// readIdentity returns the zero value if there is no file, or not a valid one.
func readIdentity(fsys vfs.FS, name string) (Identity, error) {
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, nil
	}
	if err != nil {
		return Identity{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxIdentity))
	if err != nil {
		return Identity{}, err
	}
	var id Identity
	if json.Unmarshal(data, &id) != nil || len(id.Owner) != 2*ownerBytes || id.Generation < 0 || id.Generation > maxGeneration {
		return Identity{}, nil
	}
	return id, nil
}

// maxGeneration is what JSON readers of all languages keep exactly.
const maxGeneration = 1<<53 - 2

func writeIdentity(fsys vfs.FS, name string, id Identity) error {
	data, err := json.Marshal(id)
	if err != nil {
		return err
	}
	tmp := name + ".tmp"
	f, err := fsys.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := fsys.Rename(tmp, name); err != nil {
		return err
	}
	return fsys.SyncDir(filepath.Dir(name))
}
