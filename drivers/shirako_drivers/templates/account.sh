# Steps on a node where the guest gets an account of its own. As root.
#
# Given: unit lease user uid home shell comment host_name keys trial_key trial_blob clean_paths, and a
# function `files` that calls `put_file PATH TEXT` for each rendered file.
#
# $state/account says which account is ours: it is there before the account is made, and goes last.
# The comment field of an account of ours says so too, beginning with $comment_mark.

password_entry() { grep "^$1:" /etc/passwd; }

# Without NSS: a directory may name the slice's account on every machine of the site.
uid_owner() { awk -F: -v u="$1" '$3 == u { print $1 }' /etc/passwd; }

as_guest() { setpriv --reuid="$uid" --regid="$uid" --clear-groups --inh-caps=-all "$@"; }

set_up() {
  claim_node
  make_account
  write_guest_keys "$keys
$trial_key"
  name_host
  files
  give user "$user"
}

claim_node() {
  if [ -s "$state/account" ]; then
    read -r owner _ <"$state/account"
    [ "$owner" = "$user" ] || fail "the node still holds the account $owner"
    return
  fi
  [ -z "$(password_entry "$user")" ] || fail "an account $user exists here that is not ours"
  taken=$(uid_owner "$uid")
  [ -z "$taken" ] || fail "uid $uid belongs to $taken"
  [ ! -e "$home" ] || fail "$home exists, but belongs to no account of ours"
  printf '%s %s %s\n' "$user" "$uid" "$home" >"$state/account.new" &&
    mv -f "$state/account.new" "$state/account" || fail "the account cannot be noted in $state"
}

make_account() {
  [ -x "$shell" ] || shell=/bin/sh
  # shadow's tools ask NSS whether a name is free; with a prefix they ask the node's own files.
  grep -q "^$user:" /etc/group || groupadd -P /. -g "$uid" "$user" ||
    fail "the group $user cannot be made"
  if [ -z "$(password_entry "$user")" ]; then
    # `*` is no password's hash; `!` would also lock the account against logins by key.
    useradd -P /. -M -d "$home" -s "$shell" -u "$uid" -g "$uid" -p '*' -c "$comment" "$user" ||
      fail "the account $user cannot be made"
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
    mv -f .ssh/authorized_keys.new .ssh/authorized_keys' sh "$home" ||
    fail "the keys of $user cannot be written"
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
  ! grep -qF "$trial_blob" "$home/.ssh/authorized_keys" || fail "the one-time key is still there"
}

tear_down() {
  find_our_account
  [ -z "$user" ] || remove_account
  restore_files
  verify_clean
  rm -f "$state/account" || fail "$state/account cannot be removed"
}

# The job's own idea of the account counts least: the node knows what was made on it.
find_our_account() {
  marked=$(grep ":$comment_mark" /etc/passwd | head -n 1)
  if [ -s "$state/account" ]; then
    read -r user uid home <"$state/account"
  elif [ -n "$marked" ]; then
    user=$(echo "$marked" | cut -d : -f 1) uid=$(echo "$marked" | cut -d : -f 3)
    home=$(echo "$marked" | cut -d : -f 6)
  else
    [ -z "$(password_entry "$user")" ] || fail "an account $user exists here that is not ours"
    user=
  fi
  # What follows ends all processes of this uid: never those of a system account.
  [ -z "$user" ] || [ "$uid" -ge 1000 ] || fail "$state/account names uid $uid"
}

remove_account() {
  # Shut the door first: sshd reads the keys as the guest, who cannot enter this home any more.
  [ ! -d "$home" ] || { chown 0:0 "$home" && chmod 0 "$home"; }
  rm -f "/var/lib/systemd/linger/$user"
  [ ! -d /run/systemd/system ] || loginctl terminate-user "$user" 2>/dev/null
  kill_guest
  # Where systemd made it, the guest's /run/user is a file system of its own.
  umount -l "/run/user/$uid" 2>/dev/null
  # Files before the account: the guest may have filled the disk that /etc/passwd is on.
  rm -rf "$home" "$home.new" "/var/mail/$user" "/var/spool/cron/crontabs/$user"
  for path in $clean_paths; do
    [ ! -d "$path" ] || find "$path" -xdev -mindepth 1 -uid "$uid" -prune -exec rm -rf -- {} +
  done
  remove_ipc
  if [ -n "$(password_entry "$user")" ]; then
    userdel -f -P /. "$user" || fail "the account $user cannot be removed"
    say "account $user removed"
  fi
  ! grep -q "^$user:" /etc/group || groupdel -P /. "$user" || fail "the group $user stays"
  # A login that was under way when the door was shut may have become a session since.
  kill_guest
}

guest_processes() {
  cat /proc/[0-9]*/status 2>/dev/null | awk -v u="$uid" '
    /^State:/ { state = $2 }
    /^Pid:/ { pid = $2 }
    /^Uid:/ && state !~ /[ZX]/ && ($2 == u || $3 == u || $4 == u || $5 == u) { print pid }'
  # sshd's own processes for this user, which are root's until the login is done.
  grep -lazE "^sshd(-session|-auth)?: $user( |@|\$)" /proc/[0-9]*/cmdline 2>/dev/null | cut -d / -f 3
}

kill_guest() {
  found=$(guest_processes | sort -u | wc -l)
  [ "$found" -gt 0 ] || return 0
  # One call reaches all of them, also those that fork faster than a list of them is read.
  as_guest sh -c 'kill -KILL -1' 2>/dev/null
  kill_all guest_processes || fail "processes of $user cannot be ended"
  say "$found processes of $user ended"
}

remove_ipc() {
  for kind in shm msg sem; do
    [ -r "/proc/sysvipc/$kind" ] || continue
    for id in $(ipc_of_guest "$kind"); do
      case $kind in
        shm) ipcrm -m "$id" ;;
        msg) ipcrm -q "$id" ;;
        sem) ipcrm -s "$id" ;;
      esac
    done
  done
}

# Columns differ by kind; the header names them. An object's creator may give it away: both count.
ipc_of_guest() {
  awk -v u="$uid" '
    NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; next }
    $column["uid"] == u || $column["cuid"] == u { print $2 }' "/proc/sysvipc/$1"
}

restore_files() {
  [ ! -d "$state/saved" ] || find "$state/saved" ! -type d ! -name '*.new' | while IFS= read -r kept; do
    original=${kept#"$state/saved"}
    cp -a "$kept" "$original.shirako" && mv -f "$original.shirako" "$original" || exit 1
  done || fail "a file of the node cannot be restored"
  [ ! -d "$state/absent" ] || find "$state/absent" -type f | while IFS= read -r kept; do
    rm -f "${kept#"$state/absent"}" || exit 1
  done || fail "a rendered file cannot be removed"
  if [ -s "$state/hostname" ]; then
    hostname "$(cat "$state/hostname")" || fail "the host name cannot be restored"
  fi
  rm -rf "$state/saved" "$state/absent" "$state/hostname"
}

verify_clean() {
  for path in saved absent hostname; do
    [ ! -e "$state/$path" ] || fail "left: $state/$path"
  done
  if [ -n "$user" ]; then
    [ -z "$(password_entry "$user")" ] || fail "left: the account $user"
    ! grep -q "^$user:" /etc/group || fail "left: the group $user"
    ! grep -qs "^$user:" /etc/shadow || fail "left: the shadow entry of $user"
    [ ! -e "$home/.ssh/authorized_keys" ] || fail "left: keys of $user"
    [ ! -e "$home" ] || fail "left: $home"
    [ -z "$(guest_processes)" ] || fail "left: processes of $user"
    left=$(for path in $clean_paths; do
      [ ! -d "$path" ] || find "$path" -xdev -mindepth 1 -uid "$uid"
    done | head -n 1)
    [ -z "$left" ] || fail "left: $left"
    for kind in shm msg sem; do
      [ ! -r "/proc/sysvipc/$kind" ] || [ -z "$(ipc_of_guest "$kind")" ] || fail "left: IPC of $user"
    done
  fi
  for check in account_gone home_gone keys_gone processes_gone files_gone files_restored; do
    give check "$check"
  done
}

probe() {
  if [ -n "$lease" ]; then
    [ -n "$(password_entry "$user")" ] || fail "the account $user is missing"
  else
    [ ! -e "$state/account" ] || fail "left of an earlier lease: account $(cut -d ' ' -f 1 "$state/account")"
    marked=$(grep ":$comment_mark" /etc/passwd | cut -d : -f 1 | head -n 1)
    [ -z "$marked" ] || fail "left of an earlier lease: account $marked"
  fi
  give free_mb "$(df -Pk / | awk 'NR == 2 { print int($4 / 1024) }')"
}
