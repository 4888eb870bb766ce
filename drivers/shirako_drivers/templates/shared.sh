# Steps on a node without accounts of its own: the guest logs in as the admin user, so that its
# processes cannot be told from others'. Only its keys come and go.
#
# Given: lease keys trial_key trial_blob trial_mark guest_keys.

write_guest_keys() {
  printf '%s\n' "$1" >"$guest_keys.new" && chmod 600 "$guest_keys.new" &&
    mv -f "$guest_keys.new" "$guest_keys" || fail "the guest's keys cannot be written"
}

set_up() {
  write_guest_keys "$keys
$trial_key"
  give user "$(id -un)"
  say "the guest's keys are on the node"
}

hand_over() {
  write_guest_keys "$keys"
  ! grep -qF "$trial_blob" "$guest_keys" || fail "the one-time key is still there"
}

# The guest may have added keys of its own.
repair() {
  kept=$(grep -sv "$trial_mark\$" "$guest_keys")
  write_guest_keys "$kept
$(lacking_keys)"
  verify_mended
}

tear_down() {
  rm -f "$guest_keys" "$guest_keys.new"
  [ ! -s "$guest_keys" ] || fail "the guest's keys cannot be removed"
  say "the guest's keys are off the node"
  give check keys_gone
}

lacking_keys() {
  printf '%s\n' "$keys" | while read -r kind blob rest; do
    [ -n "$blob" ] || continue
    grep -sv '^[[:blank:]]*#' "$guest_keys" | grep -aqF "$kind $blob" ||
      printf '%s\n' "$kind $blob $rest"
  done
}

# Lines `fault what`.
differences() {
  fence_differences
  if [ -z "$lease" ]; then
    [ ! -s "$guest_keys" ] || echo "left_over keys in $guest_keys"
    return
  fi
  lacking_keys | while read -r kind blob _; do echo "missing_key $kind $blob"; done
  ! grep -qs "$trial_mark\$" "$guest_keys" || echo "left_over one-time key in $guest_keys"
}

probe() {
  if [ -n "$lease" ]; then
    [ -s "$guest_keys" ] || fail "the guest's keys are missing"
  else
    [ ! -s "$guest_keys" ] || fail "keys of a guest are left"
  fi
  give free_mb "$(df -Pk / | awk 'NR == 2 { print int($4 / 1024) }')"
}
