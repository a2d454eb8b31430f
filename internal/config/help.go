package config

import (
	"fmt"
	"io"
	"strings"
)

// Usage writes every setting as a flag, with its default and its help text.
func (b *Binding) Usage(w io.Writer) {
	var last *like
	for _, s := range b.settings {
		if s.like != nil {
			if s.like != last {
				fmt.Fprintf(w, "  -%s\n", s.like.name)
				printHelp(w, s.like.help)
			}
			last = s.like
			continue
		}
		def := s.Default
		if s.Secret && def != "" {
			def = Masked
		}
		fmt.Fprintf(w, "  -%s=%s\n", s.Name, def)
		printHelp(w, s.Help)
	}
}

func printHelp(w io.Writer, help string) {
	for _, line := range wrap(help, 72) {
		fmt.Fprintf(w, "        %s\n", line)
	}
}

// Markdown writes one table per section of the settings.
func (b *Binding) Markdown(w io.Writer) {
	section := "\x00"
	var last *like
	for _, s := range b.settings {
		name, _, nested := strings.Cut(s.Name, ".")
		if !nested {
			name = ""
		}
		if name != section {
			section = name
			title := "`" + name + "`"
			if name == "" {
				title = "General"
			}
			fmt.Fprintf(w, "\n## %s\n\n| setting | default | meaning |\n| --- | --- | --- |\n", title)
		}
		if s.like != nil {
			if s.like != last {
				fmt.Fprintf(w, "| `%s` |  | %s |\n", s.like.name, strings.ReplaceAll(s.like.help, "|", "\\|"))
			}
			last = s.like
			continue
		}
		def := ""
		if s.Default != "" {
			def = "`" + s.Default + "`"
		}
		fmt.Fprintf(w, "| `%s` | %s | %s |\n", s.Name, def, strings.ReplaceAll(s.Help, "|", "\\|"))
	}
}

func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for _, word := range strings.Fields(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
