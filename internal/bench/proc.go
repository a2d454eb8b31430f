package bench

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// ticks per second of /proc/PID/stat; Linux reports in hundredths to programs,
// whatever its own clock.
const ticks = 100

// Usage is what a process has used since it started, as the kernel counts it.
type Usage struct {
	CPU      float64 // s, user and system
	PeakRSS  int64   // bytes
	RSS      int64
	Written  int64 // bytes that went to a disk, less what was deleted before
	Syscalls int64 // bytes passed to write calls
}

// ReadUsage reads the usage of process pid.
func ReadUsage(pid int) (Usage, error) {
	var u Usage
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	stat, err := os.ReadFile(dir + "stat")
	if err != nil {
		return u, err
	}
	if u.CPU, err = parseStat(string(stat)); err != nil {
		return u, err
	}
	status, err := os.ReadFile(dir + "status")
	if err != nil {
		return u, err
	}
	u.PeakRSS = keyed(string(status), "VmHWM:") << 10
	u.RSS = keyed(string(status), "VmRSS:") << 10
	u.PeakRSS = max(u.PeakRSS, u.RSS) // the kernel keeps both only about
	io, err := os.ReadFile(dir + "io")
	if err != nil {
		return u, err
	}
	u.Written = keyed(string(io), "write_bytes:") - keyed(string(io), "cancelled_write_bytes:")
	u.Syscalls = keyed(string(io), "wchar:")
	return u, nil
}

// parseStat returns utime + stime. The name of the program, in parentheses,
// may contain anything.
func parseStat(s string) (float64, error) {
	i := strings.LastIndexByte(s, ')')
	f := strings.Fields(s[i+1:])
	if i < 0 || len(f) < 13 {
		return 0, fmt.Errorf("parse /proc stat: %q", s)
	}
	user, err := strconv.ParseInt(f[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(f[12], 10, 64)
	if err != nil {
		return 0, err
	}
	return float64(user+system) / ticks, nil
}

// keyed returns the number behind key in lines of "key number unit".
func keyed(text, key string) int64 {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, key); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return 0
}

// DirSize returns the bytes of all files below dir.
func DirSize(dir string) (int64, error) {
	var n int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			n += info.Size()
		}
		return err
	})
	return n, err
}
