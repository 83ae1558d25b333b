"""What every page of the admin is made of; the pages themselves are in `admin`.

Apart from them, since the site is made of this, and they register with the site.
"""
