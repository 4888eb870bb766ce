# Steps on a node without accounts of its own: the guest logs in as the admin user, so that its
# processes cannot be told from others'. Only its keys come and go. Given: keys, trial_key, guest_keys.

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

tear_down() {
  rm -f "$guest_keys" "$guest_keys.new"
  [ ! -s "$guest_keys" ] || fail "the guest's keys cannot be removed"
  say "the guest's keys are off the node"
  give check keys_gone
}

probe() {
  if [ -n "$lease" ]; then
    [ -s "$guest_keys" ] || fail "the guest's keys are missing"
  else
    [ ! -s "$guest_keys" ] || fail "keys of a guest are left"
  fi
  give free_mb "$(df -Pk / | awk 'NR == 2 { print int($4 / 1024) }')"
}
