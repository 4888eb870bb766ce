# Steps on a node where the guest gets an account of its own. As root; with ours.sh and clean.sh.
#
# Given: lease user uid home shell comment host_name keys trial_key trial_blob trial_mark, and a
# function `files` that calls `put_file PATH TEXT` for each rendered file.
#
# $state/account says which account is ours: it is there before the account is made, and goes last.
# The comment field of an account of ours says so too, beginning with $comment_mark.

set_up() {
  claim_node
  make_account
  write_guest_keys "$keys
$trial_key"
  name_host
  files
  give user "$user"
}

# The same for a unit that is in use: nothing that works is touched, and the guest's own keys stay.
repair() {
  doomed=$(our_accounts)
  remove_accounts "$user" "$uid"
  claim_node
  make_account
  [ "$(password_entry "$user" | cut -d : -f 5 | cut -d , -f 1)" = "$comment" ] ||
    usermod -P /. -c "$comment" "$user" || fail "the comment of $user cannot be changed"
  add_guest_keys
  name_host
  files
  verify_mended
}

claim_node() {
  other=$(our_accounts | awk -v name="$user" '$1 != name { print $1 }' | head -n 1)
  [ -z "$other" ] || [ "$step" = repair ] || fail "the node still holds the account $other"
  [ ! -s "$state/account" ] || [ "$(cat "$state/account")" != "$user $uid $home" ] || return 0
  marked=$(our_accounts | awk -v name="$user" '$1 == name')
  case $marked in
    "$user $uid $home") ;; # the note alone is lost
    ?*)
      [ "$step" != repair ] ||
        unsuitable "the account is '$marked' on the node, not '$user $uid $home'"
      fail "the node still holds the account $user, as '$marked'"
      ;;
    '') claim_account ;;
  esac
  printf '%s %s %s\n' "$user" "$uid" "$home" >"$state/account.new" &&
    mv -f "$state/account.new" "$state/account" || fail "the account cannot be noted in $state"
}

# Nothing of what is about to be made may be there; another node may well be the same in this.
claim_account() {
  [ -z "$(password_entry "$user")" ] ||
    unsuitable "an account $user exists on the node that is not ours"
  taken=$(others_with "$uid")
  [ -z "$taken" ] || unsuitable "the number of the account $user, $uid, is $taken's on the node"
  [ ! -e "$home" ] || { [ "$step" = repair ] && [ "$(stat -c %u "$home")" = "$uid" ]; } ||
    fail "$home exists, but belongs to no account of ours"
}

make_account() {
  [ -x "$shell" ] || shell=/bin/sh
  # shadow's tools ask NSS whether a name is free; with a prefix they ask the node's own files.
  [ -n "$(group_entry "$user")" ] || groupadd -P /. -g "$uid" "$user" ||
    fail "the group $user cannot be made"
  if [ -z "$(password_entry "$user")" ]; then
    # `*` is no password's hash; `!` would also lock the account against logins by key. Numbers of
    # subordinate users would be a second way to leave things behind.
    useradd -P /. -M -d "$home" -s "$shell" -u "$uid" -g "$uid" -p '*' -c "$comment" \
      -K SUB_UID_COUNT=0 -K SUB_GID_COUNT=0 "$user" || fail "the account $user cannot be made"
    say "account $user made (uid $uid)"
  fi
  if [ ! -d "$home" ]; then
    # The home appears at once or not at all: a copy cut short would stay without its skeleton.
    rm -rf "$home.new"
    mkdir "$home.new" && cp -a /etc/skel/. "$home.new" && chown -R "$uid:$uid" "$home.new" &&
      chmod 700 "$home.new" && mv "$home.new" "$home" || fail "the home $home cannot be made"
  fi
}

# As the guest, who may have put a symbolic link in the way when this runs a second time.
write_guest_keys() {
  printf '%s\n' "$1" | as_guest sh -c '
    umask 077 && cd "$1" && mkdir -p .ssh && chmod 700 .ssh && cat >.ssh/authorized_keys.new &&
    mv -f .ssh/authorized_keys.new .ssh/authorized_keys' sh "$home" >/dev/null ||
    fail "the keys of $user cannot be written"
}

# What stands in the way is the guest's own doing, and no fault of the unit.
add_guest_keys() {
  ! guest_key_lines | grep -q "$trial_mark\$" ||
    as_guest sed -i "/$trial_mark\$/d" "$home/.ssh/authorized_keys" >/dev/null ||
    unsuitable "the guest keeps the one-time key in $home/.ssh from being removed"
  lacking=$(lacking_keys)
  [ -n "$lacking" ] || return 0
  [ "$(stat -L -c %s "$home/.ssh/authorized_keys" 2>/dev/null || echo 0)" -le "$most_key_bytes" ] ||
    unsuitable "the guest's $home/.ssh/authorized_keys is too large to take keys"
  # A blank line ends what the guest may have left without an end.
  printf '\n%s\n' "$lacking" | as_guest sh -c '
    umask 077 && cd "$1" && mkdir -p .ssh && cd .ssh &&
    { [ -f authorized_keys ] || [ ! -e authorized_keys ]; } && cat >>authorized_keys' \
    sh "$home" >/dev/null ||
    unsuitable "the guest keeps the lease's keys from being written to $home/.ssh"
  [ -z "$(lacking_keys)" ] ||
    unsuitable "the guest keeps the lease's keys from being read in $home/.ssh"
  say "keys of $user put back"
}

name_host() {
  [ -e "$state/hostname" ] || { hostname >"$state/hostname.new" &&
    mv -f "$state/hostname.new" "$state/hostname"; } || fail "the host name cannot be saved"
  hostname "$host_name" || fail "the host name cannot be set"
  put_file /etc/hostname "$host_name"
}

# The first write of a file keeps what was there, under $state/saved or as a name in $state/absent.
put_file() {
  if [ ! -e "$state/saved$1" ] && [ ! -e "$state/absent$1" ]; then
    keep_original "$1" || fail "$1 cannot be saved"
  fi
  (umask 022 && mkdir -p "${1%/*}") && printf '%s\n' "$2" >"$1.shirako" && chmod 644 "$1.shirako" &&
    mv -f "$1.shirako" "$1" || fail "$1 cannot be written"
}

keep_original() {
  if [ -e "$1" ] || [ -L "$1" ]; then
    mkdir -p "$state/saved${1%/*}" && cp -a "$1" "$state/saved$1.new" &&
      mv -f "$state/saved$1.new" "$state/saved$1"
  else
    mkdir -p "$state/absent${1%/*}" && : >"$state/absent$1"
  fi
}

hand_over() {
  write_guest_keys "$keys"
  lines=$(guest_key_lines) || fail "the keys of $user cannot be read"
  case $lines in *"$trial_blob"*) fail "the one-time key is still there" ;; esac
}

probe() {
  if [ -n "$lease" ]; then
    [ -n "$(password_entry "$user")" ] || fail "the account $user is missing"
  else
    left=$(differences | grep '^left_over' | head -n 1)
    [ -z "$left" ] || fail "left of an earlier lease: ${left#left_over }"
  fi
  give free_mb "$(df -Pk / | awk 'NR == 2 { print int($4 / 1024) }')"
}
