package units

import (
	"math"
	"testing"
)

func TestParseBytes(t *testing.T) {
	f := func(in string, want Bytes, text string) {
		t.Helper()
		got, err := ParseBytes(in)
		if err != nil {
			t.Fatalf("%q: %v", in, err)
		}
		if got != want || got.String() != text {
			t.Fatalf("%q: got %d %q, want %d %q", in, int64(got), got, int64(want), text)
		}
		again, err := ParseBytes(got.String())
		if err != nil || again != got {
			t.Fatalf("%q: round trip gave %d, %v", in, again, err)
		}
	}
	f("0", 0, "0")
	f("1", 1, "1")
	f("1B", 1, "1")
	f("1024", 1024, "1KB")
	f("256KB", 262144, "256KB")
	f("256kb", 262144, "256KB")
	f("256K", 262144, "256KB")
	f("256 KiB", 262144, "256KB")
	f(" 4MB ", 4<<20, "4MB")
	f("1.5MiB", 3<<19, "1536KB")
	f("0.5KB", 512, "512")
	f("2G", 2<<30, "2GB")
	f("3TB", 3<<40, "3TB")
	f("1PB", 1<<50, "1PB")
	f("9223372036854775807", math.MaxInt64, "9223372036854775807")
}

func TestParseBytesErrors(t *testing.T) {
	f := func(in string) {
		t.Helper()
		if got, err := ParseBytes(in); err == nil {
			t.Fatalf("%q: no error, got %d", in, got)
		}
		b := Bytes(7)
		if err := b.UnmarshalText([]byte(in)); err == nil || b != 7 {
			t.Fatalf("%q: UnmarshalText gave %v and left %d", in, err, b)
		}
	}
	f("")
	f("KB")
	f("-1")
	f("1.2.3")
	f("1XB")
	f("1e6")
	f("9223372036854775808")
	f("9000000PB")
	f("99999999.5PB")
	f("NaN")
}
