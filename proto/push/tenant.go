package push

// MaxTenant is Loki's limit for the name of a tenant in bytes. Tenants are path
// segments in object keys.
const MaxTenant = 150

// ValidTenant reports whether id can name a tenant.
func ValidTenant(id string) bool {
	if id == "" || len(id) > MaxTenant || id == "." || id == ".." {
		return false
	}
	for i := range len(id) {
		if !tenantChar(rune(id[i])) {
			return false
		}
	}
	return true
}

// CheckTenant says what is wrong with the name of a tenant. Errors are *Error
// with the reason NoTenant or InvalidTenant and Loki's texts.
func CheckTenant(id string) error {
	if ValidTenant(id) {
		return nil
	}
	if id == "" {
		return Errorf(NoTenant, "no org id")
	}
	for _, c := range id {
		if !tenantChar(c) {
			return Errorf(InvalidTenant, "tenant ID '%s' contains unsupported character '%c'", clipTenant(id), c)
		}
	}
	if len(id) > MaxTenant {
		return Errorf(InvalidTenant, "tenant ID is too long: max %d characters", MaxTenant)
	}
	return Errorf(InvalidTenant, "tenant ID is '.' or '..'")
}

func tenantChar(c rune) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	switch c {
	case '!', '-', '_', '.', '*', '\'', '(', ')':
		return true
	}
	return false
}

// clipTenant keeps a hostile header out of answers and logs.
func clipTenant(id string) string {
	if len(id) > MaxTenant {
		return id[:MaxTenant] + "..."
	}
	return id
}
