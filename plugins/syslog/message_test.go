package syslog

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/loki-go/loki-go/plugins/mapping"
)

// arrival is when the messages of these tests arrive.
var arrival = time.Date(2026, 9, 21, 14, 13, 25, 0, time.UTC)

// describe renders all of a message that is there, the text last.
func describe(m *message, now time.Time) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %d", m.format, m.priority)
	if m.ts != now.UnixNano() {
		fmt.Fprintf(&b, " %s", time.Unix(0, m.ts).UTC().Format(time.RFC3339Nano))
	}
	for _, f := range []struct {
		name  string
		value []byte
	}{{"host", m.hostname}, {"app", m.appName}, {"proc", m.procID}, {"id", m.msgID}, {"seq", m.sequence}} {
		if f.value != nil {
			fmt.Fprintf(&b, " %s=%s", f.name, f.value)
		}
	}
	for _, p := range m.params {
		fmt.Fprintf(&b, " [%s", p.id)
		if p.name != nil {
			value := p.value
			if p.escaped {
				value = unescape(nil, value)
			}
			fmt.Fprintf(&b, " %s=%s", p.name, value)
		}
		b.WriteByte(']')
	}
	fmt.Fprintf(&b, " | %s", m.text)
	return b.String()
}

func berlin(t testing.TB) *time.Location {
	t.Helper()
	loc, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	return loc
}

func TestRFC5424(t *testing.T) {
	p := parser{zone: berlin(t)}
	f := func(in, want string) {
		t.Helper()
		var m message
		p.parse(&m, []byte(in), arrival.UnixNano())
		if got := describe(&m, arrival); got != want {
			t.Errorf("%q\n got %s\nwant %s", in, got, want)
		}
	}
	// The examples of the RFC.
	f("<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \xEF\xBB\xBF'su root' failed for lonvick on /dev/pts/8",
		`rfc5424 34 2003-10-11T22:14:15.003Z host=mymachine.example.com app=su id=ID47 | 'su root' failed for lonvick on /dev/pts/8`)
	f(`<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% It's time to make the do-nuts.`,
		`rfc5424 165 2003-08-24T12:14:15.000003Z host=192.0.2.1 app=myproc proc=8710 | %% It's time to make the do-nuts.`)
	f("<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut=\"3\" eventSource=\"Application\" eventID=\"1011\"] \xEF\xBB\xBFAn application event log entry...",
		`rfc5424 165 2003-10-11T22:14:15.003Z host=mymachine.example.com app=evntslog id=ID47 [exampleSDID@32473 iut=3] [exampleSDID@32473 eventSource=Application] [exampleSDID@32473 eventID=1011] | An application event log entry...`)
	f(`<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 [exampleSDID@32473 iut="3"][examplePriority@32473 class="high"]`,
		`rfc5424 165 2003-10-11T22:14:15.003Z host=mymachine.example.com app=evntslog id=ID47 [exampleSDID@32473 iut=3] [examplePriority@32473 class=high] | `)
	// util-linux logger.
	f(`<13>1 - - app - - - no nothing`, `rfc5424 13 app=app | no nothing`)
	f(`<35>1 2026-11-24T17:54:13.832085+00:00 vm sshd 17455 - [timeQuality tzKnown="1" isSynced="0"] tcp 5424 one`,
		`rfc5424 35 2026-11-24T17:54:13.832085Z host=vm app=sshd proc=17455 [timeQuality tzKnown=1] [timeQuality isSynced=0] | tcp 5424 one`)
	f(`<13>1 2026-11-24T17:54:13.892580+00:00 vm app - ID47 [exampleSDID@32473 iut="3" q="a\"b"] octet`,
		`rfc5424 13 2026-11-24T17:54:13.89258Z host=vm app=app id=ID47 [exampleSDID@32473 iut=3] [exampleSDID@32473 q=a"b] | octet`)
	// rsyslog, RSYSLOG_SyslogProtocol23Format: the space behind a tag stays.
	f(`<26>1 2026-11-24T17:54:14.695047+00:00 vm mydaemon 17518 - -  via dev log`,
		`rfc5424 26 2026-11-24T17:54:14.695047Z host=vm app=mydaemon proc=17518 |  via dev log`)
	// syslog-ng, syslog() driver.
	f("<13>1 2026-11-24T17:54:49+00:00 vm - - - [meta sequenceId=\"2\"]   indented \xff\xfe octets",
		"rfc5424 13 2026-11-24T17:54:49Z host=vm [meta sequenceId=2] |   indented \xff\xfe octets")
	// Juniper, Heroku (no structured data), systemd through Go.
	f(`<165>1 2007-02-15T09:17:15.719Z router1 mgd 3046 UI_DBASE_LOGOUT_EVENT [junos@2636.1.1.1.2.18 username="user"] User 'user' exiting configuration mode`,
		`rfc5424 165 2007-02-15T09:17:15.719Z host=router1 app=mgd proc=3046 id=UI_DBASE_LOGOUT_EVENT [junos@2636.1.1.1.2.18 username=user] | User 'user' exiting configuration mode`)
	f(`<40>1 2012-11-30T06:45:29+00:00 host app web.3 - State changed from starting to up`,
		`rfc5424 40 2012-11-30T06:45:29Z host=host app=app proc=web.3 | State changed from starting to up`)
	f(`<40>1 2012-11-30T06:45:29+00:00 host app web.3 - [GET /] 200`, `rfc5424 40 2012-11-30T06:45:29Z host=host app=app proc=web.3 | [GET /] 200`)
	// Elements without parameters, escapes, brackets in values, spaces.
	f(`<1>1 - h a p m [x@1][y@2 a="1"] t`, `rfc5424 1 host=h app=a proc=p id=m [x@1] [y@2 a=1] | t`)
	f(`<1>1 - h a p m [x@1 a="\\\]\"\n]="  b=""] t`, `rfc5424 1 host=h app=a proc=p id=m [x@1 a=\]"\n]=] [x@1 b=] | t`)
	f(`<1>1 - h a p m [x@1 a="1"]t`, `rfc5424 1 host=h app=a proc=p id=m [x@1 a=1] | t`)
	// Structured data that is none is text.
	for _, sd := range []string{`[`, `[]`, `[x`, `[x a`, `[x a=`, `[x a="`, `[x a="1`, `[x a="1\"] t`, `[x a="1"`, `[x a="1"b="2"]`, `[x a=1] t`, `[ x] t`, `-t`, `[x a="1"][`} {
		f(`<1>1 - h a p m `+sd, `rfc5424 1 host=h app=a proc=p id=m | `+sd)
	}
	f(`<1>1 - h a p m [x `+strings.Repeat(`a="" `, maxParams+1)+`]`, `rfc5424 1 host=h app=a proc=p id=m | [x `+strings.Repeat(`a="" `, maxParams+1)+`]`)
	// No text, and nothing behind MSGID.
	f(`<1>1 - h a p m -`, `rfc5424 1 host=h app=a proc=p id=m | `)
	f(`<1>1 - h a p m - `, `rfc5424 1 host=h app=a proc=p id=m | `)
	f(`<1>1 - h a p m`, `rfc5424 1 host=h app=a proc=p id=m | `)
	f(`<1>1 - - - - - -`, `rfc5424 1 | `)
	// Times: no zone, a leap second, nine digits, second precision.
	f(`<1>1 2026-01-02T03:04:05 h a - - - t`, `rfc5424 1 2026-01-02T02:04:05Z host=h app=a | t`)
	f(`<1>1 2016-12-31T23:59:60Z h a - - - t`, `rfc5424 1 2017-01-01T00:00:00Z host=h app=a | t`)
	f(`<1>1 2026-01-02T03:04:05.123456789+05:30 h a - - - t`, `rfc5424 1 2026-01-01T21:34:05.123456789Z host=h app=a | t`)
	// What is no RFC 5424 message after all.
	for _, in := range []string{`1`, `1 `, `1 x`, `1 - h a p`, `1 -  a p m -`, `0 - h a p m - t`, `1 2026-13-01T00:00:00Z h a p m - t`, `1234 - h a p m - t`} {
		f(`<1>`+in, `text 1 | `+in)
	}
}

func TestRFC3164(t *testing.T) {
	p := parser{zone: time.UTC}
	f := func(in, want string) {
		t.Helper()
		var m message
		p.parse(&m, []byte(in), arrival.UnixNano())
		if got := describe(&m, arrival); got != want {
			t.Errorf("%q\n got %s\nwant %s", in, got, want)
		}
	}
	// The RFC's examples.
	f(`<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8`,
		`rfc3164 34 2025-10-11T22:14:15Z host=mymachine app=su | 'su root' failed for lonvick on /dev/pts/8`)
	f(`<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!`, `rfc3164 13 2026-02-05T17:32:18Z host=10.0.0.99 | Use the BFG!`)
	f(`Use the BFG!`, `text 13 | Use the BFG!`)
	f(`<0>1990 Oct 22 10:52:01 TZ-6 scapegoat.dmz.example.org 10.1.2.3 sched[0]: That's All Folks!`,
		`rfc3164 0 1990-10-22T10:52:01Z host=TZ-6 | scapegoat.dmz.example.org 10.1.2.3 sched[0]: That's All Folks!`)
	// rsyslog: TraditionalForwardFormat, ForwardFormat.
	f(`<26>Nov 24 17:54:14 vm mydaemon[17518]: via dev log`, `rfc3164 26 2025-11-24T17:54:14Z host=vm app=mydaemon proc=17518 | via dev log`)
	f("<156>Nov 24 17:54:14 vm filetag:  indented \xff\xfe octets", "rfc3164 156 2025-11-24T17:54:14Z host=vm app=filetag |  indented \xff\xfe octets")
	f(`<26>2026-11-24T17:54:14.695047+00:00 vm mydaemon[17518]: via dev log`,
		`rfc3164 26 2026-11-24T17:54:14.695047Z host=vm app=mydaemon proc=17518 | via dev log`)
	f(`<13>Nov 24 17:54:14 vm 1 2026-11-24T17:54:14.713973+00:00 vm my5424 - - - five`,
		`rfc3164 13 2025-11-24T17:54:14Z host=vm | 1 2026-11-24T17:54:14.713973+00:00 vm my5424 - - - five`)
	// syslog-ng, network() driver, with and without a program.
	f(`<13>Nov 24 17:54:49 vm viasng[18313]: hi sng`, `rfc3164 13 2025-11-24T17:54:49Z host=vm app=viasng proc=18313 | hi sng`)
	f(`<13>Nov 24 17:54:49 vm   indented`, `rfc3164 13 2025-11-24T17:54:49Z host=vm |   indented`)
	f(`<13>Nov 24 17:54:49 src@gw/10.0.0.1 app: x`, `rfc3164 13 2025-11-24T17:54:49Z host=src@gw/10.0.0.1 app=app | x`)
	// syslog(3) has no host; tags of all kinds.
	f(`<30>Sep 21 14:13:20 systemd[1]: Started Session 1 of User root.`, `rfc3164 30 2026-09-21T14:13:20Z app=systemd proc=1 | Started Session 1 of User root.`)
	f(`<4>Sep 21 14:13:20 web1 kernel: [12345.678901] eth0: link up`, `rfc3164 4 2026-09-21T14:13:20Z host=web1 app=kernel | [12345.678901] eth0: link up`)
	f(`<22>Sep 21 14:13:20 mx postfix/smtpd[1234]: connect from unknown[192.0.2.1]`, `rfc3164 22 2026-09-21T14:13:20Z host=mx app=postfix/smtpd proc=1234 | connect from unknown[192.0.2.1]`)
	f(`<78>Sep 21 14:13:20 h CRON[99]: (root) CMD (true)`, `rfc3164 78 2026-09-21T14:13:20Z host=h app=CRON proc=99 | (root) CMD (true)`)
	f(`<85>Sep 21 14:13:20 h sudo:     root : TTY=pts/0`, `rfc3164 85 2026-09-21T14:13:20Z host=h app=sudo |     root : TTY=pts/0`)
	f(`<30>Sep 21 14:13:20 h (systemd)[2]: x`, `rfc3164 30 2026-09-21T14:13:20Z host=h app=(systemd) proc=2 | x`)
	f(`<30>Sep 21 14:13:20 h app[1-2]:x`, `rfc3164 30 2026-09-21T14:13:20Z host=h app=app proc=1-2 | x`)
	f(`<30>Sep 21 14:13:20 h app[1] x`, `rfc3164 30 2026-09-21T14:13:20Z host=h app=app proc=1 | x`)
	f(`<30>Sep 21 14:13:20 h app[]: x`, `rfc3164 30 2026-09-21T14:13:20Z host=h app=app | x`)
	f(`<30>Sep 21 14:13:20 h app:`, `rfc3164 30 2026-09-21T14:13:20Z host=h app=app | `)
	// What only looks like a tag.
	f(`<30>Sep 21 14:13:20 h http://example.org/ is down`, `rfc3164 30 2026-09-21T14:13:20Z host=h | http://example.org/ is down`)
	f(`<30>Sep 21 14:13:20 h "a b": 1`, `rfc3164 30 2026-09-21T14:13:20Z host=h | "a b": 1`)
	f(`<30>Sep 21 14:13:20 h 12: x`, `rfc3164 30 2026-09-21T14:13:20Z host=h | 12: x`)
	f(`<30>Sep 21 14:13:20 h {"a[0]": 1}`, `rfc3164 30 2026-09-21T14:13:20Z host=h | {"a[0]": 1}`)
	f(`<30>Sep 21 14:13:20 h x]y[z x`, `rfc3164 30 2026-09-21T14:13:20Z host=h | x]y[z x`)
	f(`<30>Sep 21 14:13:20 h `+strings.Repeat("a", 65)+`: x`, `rfc3164 30 2026-09-21T14:13:20Z host=h | `+strings.Repeat("a", 65)+`: x`)
	// Nothing behind the host, or no host.
	f(`<30>Sep 21 14:13:20 alone`, `rfc3164 30 2026-09-21T14:13:20Z | alone`)
	f(`<30>Sep 21 14:13:20 `, `rfc3164 30 2026-09-21T14:13:20Z | `)
	f(`<30>Sep 21 14:13:20`, `rfc3164 30 2026-09-21T14:13:20Z | `)
	f(`<30>Sep 21 14:13:20 {"json": true}`, `rfc3164 30 2026-09-21T14:13:20Z | {"json": true}`)
	f(`<30>Sep 21 14:13:20 U7PG2,f09fc2000000,v3.7.28: hostapd: ath1: IEEE 802.11`, `rfc3164 30 2026-09-21T14:13:20Z | U7PG2,f09fc2000000,v3.7.28: hostapd: ath1: IEEE 802.11`)
	f(`<30>Sep 21 14:13:20 fe80::1 app: x`, `rfc3164 30 2026-09-21T14:13:20Z host=fe80::1 app=app | x`)
	// Cisco IOS, with and without number, clock mark, milliseconds, year, zone, host.
	f(`<189>29: *Mar  1 00:00:14.123: %SYS-5-CONFIG_I: Configured from console by console`,
		`rfc3164 189 2026-03-01T00:00:14.123Z app=SYS id=SYS-5-CONFIG_I seq=29 | %SYS-5-CONFIG_I: Configured from console by console`)
	f(`<189>29: router1: .Sep 21 2025 14:13:20.123 UTC: %LINK-3-UPDOWN: Interface Gi0/1, changed state to up`,
		`rfc3164 189 2025-09-21T14:13:20.123Z host=router1 app=LINK id=LINK-3-UPDOWN seq=29 | %LINK-3-UPDOWN: Interface Gi0/1, changed state to up`)
	f(`<187>000045: Sep 21 14:13:20 CEST: %SW_MATM-4-MACFLAP_NOTIF: Host x`,
		`rfc3164 187 2026-09-21T12:13:20Z app=SW_MATM id=SW_MATM-4-MACFLAP_NOTIF seq=000045 | %SW_MATM-4-MACFLAP_NOTIF: Host x`)
	f(`<187>45: Sep 21 14:13:20 XYZ: %A-1-B: x`, `rfc3164 187 2026-09-21T14:13:20Z app=A id=A-1-B seq=45 | %A-1-B: x`)
	f(`<187>Sep 21 14:13:20.999 EST: %A-1-B: x`, `rfc3164 187 2026-09-21T19:13:20.999Z app=A id=A-1-B | %A-1-B: x`)
	// Cisco NX-OS.
	f(`<189>: 2026 Sep 21 14:13:20 GMT: %ETHPORT-5-IF_UP: Interface Ethernet1/1 is up`,
		`rfc3164 189 2026-09-21T14:13:20Z app=ETHPORT id=ETHPORT-5-IF_UP | %ETHPORT-5-IF_UP: Interface Ethernet1/1 is up`)
	f(`<189>: switch-1: 2026 Sep 21 14:13:20.5 GMT: %ETHPORT-5-IF_UP: x`,
		`rfc3164 189 2026-09-21T14:13:20.5Z host=switch-1 app=ETHPORT id=ETHPORT-5-IF_UP | %ETHPORT-5-IF_UP: x`)
	// Cisco ASA: no time, time, host.
	f(`<166>%ASA-6-302013: Built outbound TCP connection`, `text 166 app=ASA id=ASA-6-302013 | %ASA-6-302013: Built outbound TCP connection`)
	f(`<166>Sep 21 2026 14:13:20: %ASA-6-302013: Built`, `rfc3164 166 2026-09-21T14:13:20Z app=ASA id=ASA-6-302013 | %ASA-6-302013: Built`)
	f(`<166>Sep 21 2026 14:13:20 fw1 : %ASA-6-302013: Built`, `rfc3164 166 2026-09-21T14:13:20Z host=fw1 app=ASA id=ASA-6-302013 | %ASA-6-302013: Built`)
	f(`<166>Sep 21 2026 14:13:20 fw1 %ASA-6-302013: Built`, `rfc3164 166 2026-09-21T14:13:20Z host=fw1 app=ASA id=ASA-6-302013 | %ASA-6-302013: Built`)
	f(`<166>%ASA: x`, `text 166 | %ASA: x`)
	f(`<166>%A b-1-c: x`, `text 166 | %A b-1-c: x`)
	// Other devices: zones, years behind the time, VMware, MikroTik, Fortinet.
	f(`<13>Sep 21 14:13:20 UTC host app: x`, `rfc3164 13 2026-09-21T14:13:20Z host=host app=app | x`)
	f(`<13>Sep 21 14:13:20 +02:00 host app: x`, `rfc3164 13 2026-09-21T12:13:20Z host=host app=app | x`)
	f(`<13>Sep 21 14:13:20-0330 host app: x`, `rfc3164 13 2026-09-21T17:43:20Z host=host app=app | x`)
	f(`<13>Sep 21 14:13:20 2025 host app: x`, `rfc3164 13 2025-09-21T14:13:20Z host=host app=app | x`)
	f(`<13>Sep 21 14:13:20 EST app: x`, `rfc3164 13 2026-09-21T14:13:20Z host=EST app=app | x`)
	f(`<14>2026-09-21T14:13:20.123Z esx1.example.org Hostd: info hostd[2099] [Originator@6876 sub=Vimsvc] x`,
		`rfc3164 14 2026-09-21T14:13:20.123Z host=esx1.example.org app=Hostd | info hostd[2099] [Originator@6876 sub=Vimsvc] x`)
	f(`<14>2026-09-21 14:13:20 host app: x`, `rfc3164 14 2026-09-21T14:13:20Z host=host app=app | x`)
	f(`<14>2026-09-21T14:13:20+02:00 host app: x`, `rfc3164 14 2026-09-21T12:13:20Z host=host app=app | x`)
	f(`<14>2026-09-21T14:13:20Z: %A-1-B: x`, `rfc3164 14 2026-09-21T14:13:20Z app=A id=A-1-B | %A-1-B: x`)
	f(`<30>firewall,info input: in:ether1 out:(unknown 0)`, `text 30 | firewall,info input: in:ether1 out:(unknown 0)`)
	f(`<189>date=2026-09-21 time=14:13:20 devname="FG100"`, `text 189 | date=2026-09-21 time=14:13:20 devname="FG100"`)
	f(`<13>myapp[123]: no time`, `text 13 app=myapp proc=123 | no time`)
	f(`<13>Error: no time, no tag`, `text 13 | Error: no time, no tag`)
	// Priorities.
	f(`<191>x`, `text 191 | x`)
	f(`<00>x`, `text 0 | x`)
	for _, in := range []string{`<192>x`, `<>x`, `<1x`, `<1`, `<`, `<-1>x`, `<0191>x`, `< 1>x`} {
		f(in, `text 13 | `+in)
	}
	f(`<13>`, `text 13 | `)
	f(``, `text 13 | `)
	// Times that are none, or no time of any kind.
	for _, in := range []string{
		`Sep 32 14:13:20 h a: x`, `Sep 31 14:13:20 h a: x`, `Feb 30 14:13:20 h a: x`, `Sep 21 24:13:20 h a: x`, `Sep 21 14:60:20 h a: x`,
		`Sep 21 14:13:61 h a: x`, `Sep 21 14:13 h a: x yyyyyy`, `Sepp 21 14:13:20 h a: x`, `Sep 0 14:13:20 h a: x`, `Sep 21 14:13:20x h a: x`,
		`2026 Sep`, `1969 Sep 21 14:13:20 h a: x`, `2026-09-21Q14:13:20Z h a: x`, `12345: nothing of the kind`, `Sep 21 14:13:2`,
	} {
		f(`<13>`+in, `text 13 | `+in)
	}
}

func TestYear(t *testing.T) {
	f := func(zone *time.Location, now, in, want string) {
		t.Helper()
		at, err := time.Parse(time.RFC3339, now)
		if err != nil {
			t.Fatal(err)
		}
		p := parser{zone: zone}
		var m message
		p.parse(&m, []byte("<13>"+in+" h a: x"), at.UnixNano())
		if got := time.Unix(0, m.ts).UTC().Format(time.RFC3339); got != want || m.format != formatBSD {
			t.Errorf("%s at %s: got %s, want %s", in, now, got, want)
		}
	}
	f(time.UTC, "2027-01-01T00:00:01Z", "Dec 31 23:59:59", "2026-12-31T23:59:59Z")
	f(time.UTC, "2026-12-31T23:59:59Z", "Jan  1 00:00:00", "2027-01-01T00:00:00Z")
	f(time.UTC, "2027-01-01T00:00:01Z", "Jan  1 00:00:00", "2027-01-01T00:00:00Z")
	f(time.UTC, "2026-12-30T00:00:01Z", "Jan  1 00:00:02", "2026-01-01T00:00:02Z")
	f(time.UTC, "2103-03-01T00:00:00Z", "Feb 29 12:00:00", "2096-02-29T12:00:00Z")
	f(time.UTC, "2026-06-01T00:00:00Z", "Dec 31 00:00:00", "2025-12-31T00:00:00Z")
	f(time.UTC, "2026-08-01T00:00:00Z", "Jan  1 00:00:00", "2026-01-01T00:00:00Z")
	// A device whose clock is off by years.
	f(time.UTC, "2026-03-01T00:00:00Z", "Feb 29 12:00:00", "2024-02-29T12:00:00Z")
	f(time.UTC, "2025-03-01T00:00:00Z", "Feb 29 12:00:00", "2024-02-29T12:00:00Z")
	f(time.UTC, "2028-03-01T00:00:00Z", "Feb 29 12:00:00", "2028-02-29T12:00:00Z")
	// Zones with summer time, and the year where the device is.
	b := berlin(t)
	f(b, "2026-07-01T00:00:00Z", "Jul  1 02:00:00", "2026-07-01T00:00:00Z")
	f(b, "2026-07-01T00:00:00Z", "Jan 10 02:00:00", "2026-01-10T01:00:00Z")
	f(b, "2026-12-31T23:00:01Z", "Jan  1 00:00:01", "2026-12-31T23:00:01Z")
	f(b, "2026-12-31T23:00:01Z", "Dec 31 23:59:59", "2026-12-31T22:59:59Z")
	f(time.FixedZone("", -8*3600), "2027-01-01T07:59:59Z", "Dec 31 23:59:59", "2027-01-01T07:59:59Z")
}

func TestTrim(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a": "a", "a\n": "a", "a\r\n": "a", "a\x00": "a", "a\n\x00": "a", "a\n\n": "a\n", "a\r": "a\r", "\n": "", "\x00": "", "a\x00b\x00\x00": "a\x00b",
	} {
		if got := string(trim([]byte(in))); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestRecord(t *testing.T) {
	r := recorder{words: newKeywords()}
	p := parser{zone: time.UTC}
	f := func(in string, peer string, want string) {
		t.Helper()
		var m message
		p.parse(&m, []byte(in), 1)
		var ip []byte
		if peer != "" {
			ip = []byte(peer)
		}
		if got := string(mapping.AppendJSON(nil, r.record(&m, ip), 0)); got != want {
			t.Errorf("%s\n got %s\nwant %s", in, got, want)
		}
	}
	f(`<34>1 - h su 12 ID47 [x@1 a="1" b="q\"\]"][y@1][z@1 a="2"] hi`, "192.0.2.1",
		`{"message":"hi","service_name":"su","level":"critical","severity":"critical","facility":"auth","hostname":"h","app_name":"su",`+
			`"proc_id":"12","msg_id":"ID47","connection_ip_address":"192.0.2.1","sd":{"x@1":{"a":"1","b":"q\"]"},"y@1":"","z@1":{"a":"2"}}}`)
	f(`<34>1 - - - - - [y@1][x@1 a="1"][x@1 a="2"]`, "",
		`{"message":"","level":"critical","severity":"critical","facility":"auth","sd":{"y@1":"","x@1":{"a":"1"},"x@1":{"a":"2"}}}`)
	f(`hi`, "", `{"message":"hi","level":"info","severity":"notice","facility":"user"}`)
	f(`<191>Sep 21 14:13:20 h `+strings.Repeat("a", 64)+`: x`, "",
		`{"message":"x","service_name":"`+strings.Repeat("a", 64)+`","level":"debug","severity":"debug","facility":"local7","hostname":"h","app_name":"`+strings.Repeat("a", 64)+`"}`)
	// A program's name that is no name does not become a label.
	f(`<0>1 - - `+strings.Repeat("a", maxServiceName+1)+` - - - x`, "",
		`{"message":"x","level":"fatal","severity":"emergency","facility":"kern","app_name":"`+strings.Repeat("a", maxServiceName+1)+`"}`)
}
